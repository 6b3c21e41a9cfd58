# SPDX-License-Identifier: BSD-3-Clause
"""``stream``: look at the shared-memory streams of this host, make, fill, copy and remove them."""
