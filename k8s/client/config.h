/* SPDX-License-Identifier: Apache-2.0 */
/* Where the API server is, and who we are to it: a kubeconfig file, or what every pod finds in its service account. */
#pragma once

#include "base/error.h"

struct kube_config {
    char *source;     /* what it was read from, for messages */
    char *server;     /* "https://host:port", perhaps with a path; without a slash at its end */
    char *namespace_; /* "default" unless the context names one */
    char *ca;         /* PEM; NULL: the system's authorities */
    char *certificate, *key;
    char *token, *token_file; /* the file is read again when it changes */
    char *user, *password;
    char *tls_server_name; /* the name in the server's certificate, where it is not the host of `server` */
    char *proxy_url;
    bool insecure; /* the server's certificate is not checked */
};

/*
 * The kubeconfig of `path`; if NULL, of $KUBECONFIG (several files, separated by ':': the first that defines an entry
 * counts), else the pod's service account if there is one, else ~/.kube/config. `context` NULL: the current one.
 * ERROR_BAD_MANIFEST with all faults in the message; ERROR_NOT_SUPPORTED for exec plug-ins and auth providers.
 */
int kube_config_load(const char *path, const char *context, struct kube_config **ret, struct error **ret_error);
/* From the text of one kubeconfig; `source` is its file name: relative paths in it start from its directory. */
int kube_config_parse(const char *text, size_t length, const char *source, const char *context,
                      struct kube_config **ret, struct error **ret_error);
/* What a pod has: $KUBERNETES_SERVICE_HOST and _PORT, and token, ca.crt and namespace in `dir` (NULL: kubelet's
 * place). ERROR_NOT_FOUND outside of a cluster. */
int kube_config_in_cluster(const char *dir, struct kube_config **ret, struct error **ret_error);
void kube_config_free(struct kube_config *config);
DEFINE_CLEANUP(struct kube_config *, kube_config_free)
