#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A prober that does not try to the end is an error, whoever asks. Without a cluster: it tries in a thread of ours."""
import os
import tempfile
import time
import unittest
import unittest.mock

import prober
from prober import Prober


def well():
    return "refused"


class Dies:
    def __init__(self):
        self.left = 50

    def __call__(self):
        self.left -= 1
        if not self.left:
            raise RuntimeError("no such thing")
        return "refused"


class OfProbers(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    # what Prober wants of a bench
    def container(self, pod):
        return pod

    def call_at(self, container, function, *args, timeout):
        function(*args)

    def test_one_that_tries_to_the_end(self):
        with Prober(self, "mesh/a", well) as each:
            self.assertGreaterEqual(each.counts()["refused"], 3)
        self.assertGreaterEqual(each.counts()["refused"], 3)

    def says(self, why, attempt, **more):
        """... to who asks, and at the end of the block to who does not."""
        with self.assertRaisesRegex(AssertionError, why), Prober(self, "mesh/a", attempt, **more) as each:
            each.thread.join()
            with self.assertRaisesRegex(AssertionError, why):
                each.counts()

    def test_death(self):
        self.says("mesh/a .*ended before its time: no such thing", Dies())

    def test_its_time_is_over(self):
        self.says("mesh/a .*ended before its time: its seconds were over", well, seconds=1)

    def test_one_that_stands_still(self):
        def frozen(container, function, path, stop, seconds, *more, timeout):
            function(path, stop, 1, *more)
            while not os.path.exists(stop):
                time.sleep(0.01)
        self.call_at = frozen
        self.enterContext(unittest.mock.patch.object(prober, "LATE", 0.1))
        with self.assertRaisesRegex(AssertionError, "mesh/a .*had not tried for"), Prober(self, "mesh/a", well):
            time.sleep(1.5)

    def test_what_went_wrong_before_says_more(self):
        with self.assertRaises(KeyError), Prober(self, "mesh/a", Dies()) as each:
            each.thread.join()
            raise KeyError


if __name__ == "__main__":
    unittest.main(verbosity=2)
