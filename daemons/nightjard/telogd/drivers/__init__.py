# SPDX-License-Identifier: BSD-3-Clause
"""What tells of the telescope: record services, streams, folders of other hosts."""
