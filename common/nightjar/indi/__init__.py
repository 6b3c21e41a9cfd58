# SPDX-License-Identifier: BSD-3-Clause
"""INDI, the protocol of instruments behind an indiserver: messages, and a client's connection."""
