# SPDX-License-Identifier: BSD-3-Clause
"""The ``nightjar`` program: a whole site on one machine, and whether it is set up well."""
