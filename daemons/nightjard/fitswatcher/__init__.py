# SPDX-License-Identifier: BSD-3-Clause
"""``fitswatcher``: a live list of the FITS files that appear in folders."""
