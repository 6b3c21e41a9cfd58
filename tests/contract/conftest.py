# SPDX-License-Identifier: BSD-3-Clause
"""Assertions of the shared contract checks are explained as those of test modules are."""

import pytest

pytest.register_assert_rewrite("contract.detector", "contract.adc", "contract.rotator")
