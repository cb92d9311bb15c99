/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Every signal as the kernel gives it to a program that was never told otherwise: for a child before its exec, since
 * what is ignored stays so (a shell's background job has some of them ignored). Async-signal-safe. */
void signals_set_default(void);
