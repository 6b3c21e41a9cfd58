# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's logs: pointing, housekeeping, and the files of other hosts."""
