/* SPDX-License-Identifier: Apache-2.0 */
#include "base/signals.h"

#include <signal.h>

void signals_set_default(void)
{
    for (int number = 1; number < NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP)
            signal(number, SIG_DFL);
}
