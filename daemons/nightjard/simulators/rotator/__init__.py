# SPDX-License-Identifier: BSD-3-Clause
"""A simulated rotator: the mechanics with their truth, and its devices on the wire."""
