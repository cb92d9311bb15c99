/* SPDX-License-Identifier: Apache-2.0 */
/* What names, addresses and the like must look like. */
#include <arpa/inet.h>
#include <ctype.h>

#include "base/util.h"
#include "vmi/tables.h"

static bool is_lower_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool label_matches(const char *text, size_t n)
{
    if (n == 0 || n > 63 || !is_lower_alnum(text[0]) || !is_lower_alnum(text[n - 1]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!is_lower_alnum(text[i]) && text[i] != '-')
            return false;
    return true;
}

static bool is_dns_label(const char *text)
{
    return label_matches(text, strlen(text));
}

/* Kubernetes' rule for names: the parts between the dots are not limited to 63 bytes, the whole is to 253. */
static bool subdomain_matches(const char *text, size_t n)
{
    if (n == 0 || n > 253 || !is_lower_alnum(text[0]) || !is_lower_alnum(text[n - 1]))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!is_lower_alnum(text[i]) && text[i] != '-' && text[i] != '.')
            return false;
        if (text[i] == '.' && (!is_lower_alnum(text[i - 1]) || !is_lower_alnum(text[i + 1])))
            return false;
    }
    return true;
}

static bool is_dns_subdomain(const char *text)
{
    return subdomain_matches(text, strlen(text));
}

static bool is_network_name(const char *text)
{
    size_t namespace_length = strcspn(text, "/");

    if (text[namespace_length] == '\0')
        return is_dns_subdomain(text);
    return label_matches(text, namespace_length) && is_dns_subdomain(text + namespace_length + 1);
}

/* 'x' in the pattern is a hexadecimal digit; other characters stand for themselves. */
static bool matches_hex(const char *text, const char *pattern)
{
    for (; *pattern && *text; pattern++, text++)
        if (*pattern == 'x' ? !isxdigit((unsigned char)*text) : *pattern != *text)
            return false;
    return *pattern == '\0' && *text == '\0';
}

static bool is_mac(const char *text)
{
    return matches_hex(text, "xx:xx:xx:xx:xx:xx") || matches_hex(text, "xx-xx-xx-xx-xx-xx") ||
           matches_hex(text, "xxxx.xxxx.xxxx"); /* the forms of Go's net.ParseMAC */
}

static bool is_pci_address(const char *text)
{
    return matches_hex(text, "xxxx:xx:xx.x") && text[11] >= '0' && text[11] <= '7' &&
           (text[8] == '0' || text[8] == '1'); /* 32 slots, 8 functions */
}

static bool is_uuid(const char *text)
{
    return matches_hex(text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") ||
           matches_hex(text, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"); /* libvirt takes it too; defaults.c adds the dashes */
}

static bool is_serial(const char *text)
{
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr("_.+-", *text))
            return false;
    return true;
}

static bool is_absolute_path(const char *text)
{
    return *text == '/';
}

static bool is_base64(const char *text)
{
    size_t n = 0;

    for (; *text && *text != '='; text++)
        if (isalnum((unsigned char)*text) || *text == '+' || *text == '/')
            n++;
        else if (*text != '\n' && *text != '\r') /* Go's decoder skips line ends */
            return false;
    for (; *text; text++)
        if (*text == '=')
            n++;
        else if (*text != '\n' && *text != '\r')
            return false;
    return n % 4 == 0;
}

static bool is_interface_name(const char *text)
{
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && *text != '-' && *text != '_')
            return false;
    return true;
}

static bool is_cidr(const char *text, int family, long bits)
{
    char address[INET6_ADDRSTRLEN + 1], binary[16], *end;
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : sizeof(address);
    long prefix;

    if (n >= sizeof(address) || !isdigit((unsigned char)slash[1]))
        return false;
    memcpy(address, text, n);
    address[n] = '\0';
    prefix = strtol(slash + 1, &end, 10);
    return *end == '\0' && prefix <= bits && inet_pton(family, address, binary) == 1;
}

static bool is_ipv4_cidr(const char *text)
{
    return is_cidr(text, AF_INET, 32);
}

static bool is_ipv6_cidr(const char *text)
{
    return is_cidr(text, AF_INET6, 128);
}

/* A name of the tz database, or "localtime"; which names exist, only the host that runs the machine knows. */
static bool is_timezone(const char *text)
{
    if (*text == '/' || strstr(text, ".."))
        return false;
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr("_+-/", *text))
            return false;
    return true;
}

const struct text_format format_dns_label = {
    "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
    "must be lower-case letters, digits and '-', at most 63, with a letter or digit at both ends",
    is_dns_label,
};
const struct text_format format_dns_subdomain = {
    "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "must be lower-case letters, digits, '-' and '.', at most 253, with a letter or digit at both ends of each part",
    is_dns_subdomain,
};
const struct text_format format_network_name = {
    "([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "is no name of a NetworkAttachmentDefinition (NAME or NAMESPACE/NAME, of lower-case letters, digits and '-')",
    is_network_name,
};
const struct text_format format_mac = {
    "([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}|([0-9a-fA-F]{4}\\.){2}[0-9a-fA-F]{4}",
    "is no MAC address (six bytes, as in 02:00:5e:10:00:01)",
    is_mac,
};
const struct text_format format_pci_address = {
    "[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[01][0-9a-fA-F]\\.[0-7]",
    "is no PCI address (domain:bus:slot.function, as in 0000:81:01.0)",
    is_pci_address,
};
const struct text_format format_uuid = {
    "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}",
    "is no UUID (as in 5d307ca9-b3ef-428c-8861-06e72d69f223)",
    is_uuid,
};
const struct text_format format_serial = {
    "[A-Za-z0-9_.+-]*",
    "must be of the characters A-Z a-z 0-9 _ . + -",
    is_serial,
};
const struct text_format format_absolute_path = {"/.*", "must be an absolute path", is_absolute_path};
const struct text_format format_base64 = {"[A-Za-z0-9+/\\s]*[=\\s]*", "is not base64", is_base64};
const struct text_format format_interface_name = {
    "[A-Za-z0-9_-]+",
    "must be letters, digits, '-' and '_'",
    is_interface_name,
};
const struct text_format format_ipv4_cidr = {
    "[0-9.]+/[0-9]+",
    "is no IPv4 network (as in 10.0.2.0/24)",
    is_ipv4_cidr,
};
const struct text_format format_ipv6_cidr = {
    "[0-9a-fA-F:.]+/[0-9]+",
    "is no IPv6 network (as in fd10:0:2::/120)",
    is_ipv6_cidr,
};
const struct text_format format_timezone = {
    "[A-Za-z0-9_+-][A-Za-z0-9_+/-]*",
    "is no time zone (as in Europe/Berlin, UTC or localtime)",
    is_timezone,
};
