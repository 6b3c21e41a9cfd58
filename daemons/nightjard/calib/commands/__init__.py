# SPDX-License-Identifier: BSD-3-Clause
"""One module a command of ``calib``; each has ``command``."""
