# SPDX-License-Identifier: Apache-2.0


def pytest_addoption(parser):
    parser.addoption("--regenerate", action="store_true", help="rewrite the golden files, for review by git diff")
