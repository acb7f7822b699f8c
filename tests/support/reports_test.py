# SPDX-License-Identifier: Apache-2.0
"""The search that end-to-end tests rely on finds what it must, and nothing else."""
import os
import shutil
import tempfile
import unittest

import reports


class Reports(unittest.TestCase):
    def test_what_is_one_and_what_is_not(self):
        self.assertEqual(reports.find(""), "")
        self.assertEqual(reports.find("info app an error: refused\n"), "")
        report = "==7==ERROR: AddressSanitizer: heap-use-after-free on x\n  #0 f\n"
        self.assertEqual(reports.find("before\n" + report), report)
        for line in ("a.cc:3:5: runtime error: signed integer overflow", "==7==ERROR: LeakSanitizer: detected memory leaks",
                     "WARNING: ThreadSanitizer: data race (pid=7)", "Segmentation fault (core dumped)",
                     "terminate called after throwing an instance of 'x'", "debug ca key: -----BEGIN PRIVATE KEY-----", "key=MHcCAQEEIFu"):
            self.assertEqual(reports.find("before\n" + line), line)

    def test_what_is_written_after_the_file_is_gone_counts(self):
        folder = tempfile.mkdtemp(prefix="qanat-reports-")
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "ztunnel-node1.log")
        with open(path, "w") as log, open(os.path.join(folder, "pod-mesh-a-app.log"), "w") as pod:
            pod.write("ERROR: AddressSanitizer, says an application\n")
            pod.flush()
            logs = reports.Logs(folder)
            os.unlink(path)
            log.write("a.cc:1:1: runtime error: late\n")
        self.assertEqual(logs.problems(), ["ztunnel-node1.log has a report:\na.cc:1:1: runtime error: late\n"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
