/* SPDX-License-Identifier: Apache-2.0 */
/* spec.domain.devices.interfaces and spec.networks */
#include "vmi/tables.h"

ENUM_NAMES(
    model_names, [VMI_NIC_VIRTIO] = "virtio", [VMI_NIC_E1000] = "e1000", [VMI_NIC_E1000E] = "e1000e",
    [VMI_NIC_NE2K_PCI] = "ne2k_pci", [VMI_NIC_PCNET] = "pcnet", [VMI_NIC_RTL8139] = "rtl8139", [VMI_NIC_IGB] = "igb");
ENUM_NAMES(state_names, [VMI_LINK_UP] = "up", [VMI_LINK_DOWN] = "down", [VMI_LINK_ABSENT] = "absent");
ENUM_NAMES(protocol_names, [1] = "TCP", [2] = "UDP");

#define PORT struct vmi_port
DEFINE_TABLE(table_port, "Port", PORT, FIELD_STRING(PORT, name, "name", .doc = "name of the port"),
             FIELD_STRING(PORT, protocol, "protocol", .names = &protocol_names, .doc = "TCP unless given"),
             FIELD_INT(PORT, port, "port", 1, 65535, .flags = FIELD_REQUIRED, .doc = "port number"));

#define RANGE struct vmi_port_range
DEFINE_TABLE(table_port_range, "PortRange", RANGE,
             FIELD_STRING(RANGE, protocol, "protocol", .flags = FIELD_REQUIRED, .names = &protocol_names,
                          .doc = "TCP or UDP"),
             FIELD_INT(RANGE, start, "start", 1, 65535, .flags = FIELD_REQUIRED, .doc = "first port"),
             FIELD_INT(RANGE, end, "end", 1, 65535, .flags = FIELD_REQUIRED, .doc = "last port"));

#define OPTION struct vmi_dhcp_private_option
DEFINE_TABLE(table_dhcp_private, "DHCPPrivateOptions", OPTION,
             FIELD_INT(OPTION, option, "option", 224, 254, .flags = FIELD_REQUIRED, .doc = "number, 224 to 254"),
             FIELD_STRING(OPTION, value, "value", .flags = FIELD_REQUIRED, .doc = "text"));

#define DHCP struct vmi_dhcp_options
DEFINE_TABLE(table_dhcp, "DHCPOptions", DHCP,
             FIELD_STRING(DHCP, boot_file_name, "bootFileName", .max = 255, .doc = "DHCP option 67"),
             FIELD_STRING(DHCP, tftp_server_name, "tftpServerName", .max = 255, .doc = "DHCP option 66"),
             FIELD_STRING_LIST(DHCP, ntp_servers, "ntpServers", .doc = "IPv4 addresses for DHCP option 42"),
             FIELD_LIST(DHCP, private_options, vmi_dhcp_private_option, "privateOptions", &table_dhcp_private, 31,
                        .doc = "DHCP options for private use"));

DEFINE_TABLE(table_binding, "PluginBinding", struct vmi_plugin_binding,
             FIELD_STRING(struct vmi_plugin_binding, name, "name", .flags = FIELD_REQUIRED,
                          .doc = "name of the plug-in"));

#define IF struct vmi_interface
#define BINDING(member, name_, flag, text)                                                                             \
    FIELD_RAW_OBJECT(IF, member, name_, .sub = &table_empty, .flags = flag, .doc = text)
DEFINE_TABLE(
    table_interface, "Interface", IF,
    FIELD_STRING(IF, name, "name", .flags = FIELD_REQUIRED, .format = &format_interface_name,
                 .doc = "name, the same as that of its network"),
    FIELD_ENUM(IF, model, vmi_nic_model, "model", &model_names, .doc = "NIC; virtio unless given"),
    BINDING(bridge, "bridge", 0, "layer 2, the guest takes the pod's address"),
    BINDING(masquerade, "masquerade", 0, "NAT behind the pod's address"),
    BINDING(slirp, "slirp", FIELD_DEPRECATED, "user networking"), BINDING(sriov, "sriov", 0, "SR-IOV function"),
    BINDING(macvtap, "macvtap", FIELD_DEPRECATED, "macvtap"), BINDING(passt, "passt", FIELD_DEPRECATED, "passt"),
    BINDING(passt_binding, "passtBinding", 0, "passt"),
    FIELD_POINTER(IF, plugin, vmi_plugin_binding, "binding", &table_binding, .doc = "binding by a plug-in"),
    FIELD_LIST(IF, ports, vmi_port, "ports", &table_port, 4096, .doc = "ports that are forwarded; all if none"),
    FIELD_LIST(IF, port_ranges, vmi_port_range, "portRanges", &table_port_range, 4096, .doc = "ranges of such ports"),
    FIELD_STRING(IF, mac_address, "macAddress", .format = &format_mac, .doc = "MAC address of the NIC"),
    FIELD_INT(IF, boot_order, "bootOrder", 1, INT32_MAX, .doc = "place in the boot order"),
    FIELD_STRING(IF, pci_address, "pciAddress", .format = &format_pci_address, .doc = "PCI address in the guest"),
    FIELD_POINTER(IF, dhcp_options, vmi_dhcp_options, "dhcpOptions", &table_dhcp, .doc = "what DHCP tells the guest"),
    FIELD_STRING(IF, tag, "tag", .doc = "tag in cloud-init's metadata"),
    FIELD_INT(IF, acpi_index, "acpiIndex", 0, 16383, .doc = "index that names the NIC in the guest"),
    FIELD_ENUM(IF, state, vmi_link_state, "state", &state_names, .doc = "link state"));

DEFINE_TABLE(table_pod_network, "PodNetwork", struct vmi_pod_network,
             FIELD_STRING(struct vmi_pod_network, vm_network_cidr, "vmNetworkCIDR", .format = &format_ipv4_cidr,
                          .doc = "the guest's IPv4 network for masquerade"),
             FIELD_STRING(struct vmi_pod_network, vm_ipv6_network_cidr, "vmIPv6NetworkCIDR",
                          .format = &format_ipv6_cidr, .doc = "the guest's IPv6 network for masquerade"));

DEFINE_TABLE(table_multus, "MultusNetwork", struct vmi_multus_network,
             FIELD_STRING(struct vmi_multus_network, network_name, "networkName", .flags = FIELD_REQUIRED,
                          .format = &format_network_name,
                          .doc = "NetworkAttachmentDefinition, with its namespace or without"),
             FIELD_BOOL(struct vmi_multus_network, is_default, "default", .doc = "replaces the pod's own network"));

#define NET struct vmi_network
DEFINE_TABLE(table_network, "Network", NET,
             FIELD_STRING(NET, name, "name", .flags = FIELD_REQUIRED, .format = &format_interface_name,
                          .doc = "name of the network"),
             FIELD_POINTER(NET, pod, vmi_pod_network, "pod", &table_pod_network, .doc = "the pod's own network"),
             FIELD_POINTER(NET, multus, vmi_multus_network, "multus", &table_multus, .doc = "network of multus"),
             FIELD_RAW_OBJECT(NET, resource_claim, "resourceClaim", .flags = FIELD_NOT_BUILT,
                              .doc = "network device of a resource claim"));
