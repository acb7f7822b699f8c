# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes cluster on this machine, from packages. The entry program is ../cluster.py."""
