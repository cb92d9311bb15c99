/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAPI v3 schemas, as a CustomResourceDefinition wants them (structural), from the tables that decode manifests. */
#pragma once

#include <jansson.h>

#include "json/decode.h"

/* A new reference. `partial`: nothing is required, and no rule over the whole holds (a preset's domain). */
json_t *schema_of_table(const struct table *table, bool partial);
