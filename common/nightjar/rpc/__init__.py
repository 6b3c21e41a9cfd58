# SPDX-License-Identifier: BSD-3-Clause
"""Commands between machines: Pyro5 objects at registered addresses, plain JSON values only."""
