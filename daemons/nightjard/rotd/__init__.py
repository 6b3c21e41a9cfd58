# SPDX-License-Identifier: BSD-3-Clause
"""The rotator: motor and encoder, homing, moves, the handshake with the telescope."""
