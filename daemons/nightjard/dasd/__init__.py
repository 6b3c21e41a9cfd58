# SPDX-License-Identifier: BSD-3-Clause
"""The data acquisition: an ADC's channels into minute files."""
