# SPDX-License-Identifier: BSD-3-Clause
"""The camera daemon: from the shutter to a FITS file that the pipeline has taken over."""
