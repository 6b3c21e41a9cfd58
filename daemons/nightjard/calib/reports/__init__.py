# SPDX-License-Identifier: BSD-3-Clause
"""Reports of results as PDF and HTML, from what lies on disk."""
