# SPDX-License-Identifier: Apache-2.0
# Which BoringSSL: the version of the crate boring-sys, and its checksum.
version=5.4.0
checksum=4986392770df40d11d0d6294b0dd8399570f4a6e76d6953c7a34f7dd1defbd76
