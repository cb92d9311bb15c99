/* SPDX-License-Identifier: Apache-2.0 */
/* spec.accessCredentials: four levels of objects in the API, one struct in ours. */
#include "vmi/tables.h"

struct secret_ref {
    const struct node *at;
    const char *name;
};

struct source {
    const struct node *at;
    struct secret_ref *secret;
};

struct agent {
    const struct node *at;
    VMI_LIST(const char *) users;
};

struct method {
    const struct node *at;
    const struct node *no_cloud, *config_drive;
    struct agent *agent;
};

struct credential_kind {
    const struct node *at;
    struct source source;
    struct method method;
};

struct credential {
    const struct node *at;
    struct credential_kind *ssh, *password;
};

DEFINE_TABLE(table_secret_ref, "AccessCredentialSecretSource", struct secret_ref,
             FIELD_STRING(struct secret_ref, name, "secretName", .flags = FIELD_REQUIRED,
                          .format = &format_dns_subdomain, .doc = "name of the secret"));

DEFINE_TABLE(table_source, "AccessCredentialSource", struct source,
             FIELD_POINTER(struct source, secret, secret_ref, "secret", &table_secret_ref, .flags = FIELD_REQUIRED,
                           .doc = "secret that holds it"));

DEFINE_TABLE(table_ssh_agent, "QemuGuestAgentSSHPublicKeyAccessCredentialPropagation", struct agent,
             FIELD_STRING_LIST(struct agent, users, "users", .flags = FIELD_REQUIRED,
                               .doc = "users that get the keys"));

DEFINE_TABLE(table_password_agent, "QemuGuestAgentUserPasswordAccessCredentialPropagation", struct agent,
             FIELD_STRING_LIST(struct agent, users, "users", .flags = FIELD_OLD, .doc = "not used"));

DEFINE_TABLE(table_ssh_method, "SSHPublicKeyAccessCredentialPropagationMethod", struct method,
             FIELD_RAW_OBJECT(struct method, config_drive, "configDrive", .sub = &table_empty,
                              .doc = "by cloud-init's ConfigDrive"),
             FIELD_RAW_OBJECT(struct method, no_cloud, "noCloud", .sub = &table_empty,
                              .doc = "by cloud-init's NoCloud"),
             FIELD_POINTER(struct method, agent, agent, "qemuGuestAgent", &table_ssh_agent,
                           .doc = "by the guest agent"));

DEFINE_TABLE(table_password_method, "UserPasswordAccessCredentialPropagationMethod", struct method,
             FIELD_POINTER(struct method, agent, agent, "qemuGuestAgent", &table_password_agent,
                           .doc = "by the guest agent"));

DEFINE_TABLE(table_ssh_credential, "SSHPublicKeyAccessCredential", struct credential_kind,
             FIELD_OBJECT(struct credential_kind, source, source, "source", &table_source, .flags = FIELD_REQUIRED,
                          .doc = "where the keys are"),
             FIELD_OBJECT(struct credential_kind, method, method, "propagationMethod", &table_ssh_method,
                          .flags = FIELD_REQUIRED, .doc = "how they get into the guest"));

DEFINE_TABLE(table_password_credential, "UserPasswordAccessCredential", struct credential_kind,
             FIELD_OBJECT(struct credential_kind, source, source, "source", &table_source, .flags = FIELD_REQUIRED,
                          .doc = "where the passwords are"),
             FIELD_OBJECT(struct credential_kind, method, method, "propagationMethod", &table_password_method,
                          .flags = FIELD_REQUIRED, .doc = "how they get into the guest"));

DEFINE_TABLE(table_access_credential, "AccessCredential", struct credential,
             FIELD_POINTER(struct credential, ssh, credential_kind, "sshPublicKey", &table_ssh_credential,
                           .doc = "SSH keys"),
             FIELD_POINTER(struct credential, password, credential_kind, "userPassword", &table_password_credential,
                           .doc = "passwords"));

static void flatten(struct decoder *d, const struct credential *from, struct vmi_access_credential *to)
{
    const struct credential_kind *kind = from->ssh ?: from->password;
    const struct method *m;

    to->at = from->at;
    if (!kind || (from->ssh && from->password)) {
        faults_add(d->faults, from->at, "must have exactly one of sshPublicKey and userPassword");
        return;
    }
    m = &kind->method;
    to->is_password = kind == from->password;
    to->secret_name = kind->source.secret ? kind->source.secret->name : NULL;
    to->no_cloud = m->no_cloud;
    to->config_drive = m->config_drive;
    to->guest_agent = m->agent;
    if (m->agent) {
        to->users.items = m->agent->users.items;
        to->users.count = m->agent->users.count;
    }
    if (m->at && to->no_cloud + to->config_drive + to->guest_agent != 1)
        faults_add(d->faults, m->at, "must have exactly one method (%s)",
                   to->is_password ? "qemuGuestAgent" : "noCloud, configDrive or qemuGuestAgent");
    else if (m->agent && !to->is_password && m->agent->users.count == 0 && node_get(m->agent->at, "users"))
        faults_add_member(d->faults, m->agent->at, "users", "must name at least one user");
}

void decode_access_credentials(struct decoder *d, const struct field *field, const struct node *node, void *target)
{
    struct {
        struct vmi_access_credential *items;
        size_t count;
    } list = {0};

    if (node->kind != NODE_SEQUENCE) {
        faults_add(d->faults, node, "must be a list");
        return;
    }
    if (node->count > (size_t)field->max) {
        faults_add(d->faults, node, "has %zu elements (at most %d)", node->count, (int)field->max);
        return;
    }
    list.items = arena_new_array(d->arena, struct vmi_access_credential, node->count + 1);
    if (!list.items) {
        d->out_of_memory = true;
        return;
    }
    NODE_FOREACH(child, node)
    {
        struct credential c = {.at = child};
        size_t before = d->faults->count + d->faults->dropped;

        if (!decode_is_object(d, child))
            continue;
        decode_object(d, &table_access_credential, child, &c);
        if (d->faults->count + d->faults->dropped == before)
            flatten(d, &c, &list.items[list.count++]);
    }
    if (target)
        memcpy(target, &list, sizeof(list));
}
