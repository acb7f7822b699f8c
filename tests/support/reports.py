# SPDX-License-Identifier: Apache-2.0
"""Reports of sanitizers and of crashes in what our programs print, and private keys, which none of them may print.
child.cc looks for the same.

    logs = Logs(folder)        # before the programs end and their files are removed
    ...
    problems = logs.problems() # afterwards: what they printed meanwhile counts too
"""
import os

REPORTS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "UndefinedBehaviorSanitizer",
           "runtime error:", "Segmentation fault", "terminate called", "Assertion `",
           "was refused (said once",  # a system call: common/sandbox
           # PEM of a private key, and base64 of that; DER of one of P-256 in base64 and hex (PKCS#8, SEC 1).
           "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY", "BEGIN RSA PRIVATE KEY", "LS0tLS1CRUdJTiBQUklWQVRFIEtFW", "LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFW",
           "MIGHAgEAMBMGByqGSM49", "MHcCAQEEI", "308187020100301306072a8648ce3d0201", "30770201010420")
EXCERPT = 4000


def find(text):
    """The first report in a text, with the lines that follow; "" when there is none."""
    first = min((at for at in (text.find(report) for report in REPORTS) if at >= 0), default=-1)
    return "" if first < 0 else text[text.rfind("\n", 0, first) + 1:][:EXCERPT]


class Logs:
    """The files of a folder, held open: they can be read after they have been removed."""

    def __init__(self, folder):
        self.files = {}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            # An application of a test may print what it likes.
            if not name.startswith("pod-"):
                self.files[name] = open(os.path.join(folder, name), "rb")

    def problems(self):
        """One text for every file with a report in it. Closes the files."""
        found = []
        for name, file in self.files.items():
            with file:
                if excerpt := find(file.read().decode(errors="replace")):
                    found.append(f"{name} has a report:\n{excerpt}")
        self.files = {}
        return found
