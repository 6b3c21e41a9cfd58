# SPDX-License-Identifier: BSD-3-Clause
"""Motors, encoders and status lines of rotators."""
