/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of another container made visible to the launcher (compat §4.2): the image in a container disk's container is
 * bind-mounted, read-only, on a file of a volume of the pod. Neither side can lead it astray: names are resolved inside
 * of the container that holds the image, and the target is a file that was made for this.
 */
#pragma once

#include <sys/types.h>

#include "base/error.h"

/*
 * A path of a unix socket has at most 107 bytes, and those of a pod's volumes are longer: *ret_fd is its folder (to be
 * closed), and `ret` a short name for the socket that holds as long as the folder is open.
 */
#define SHORT_SOCKET_SIZE 108
int socket_shorten(const char *path, int *ret_fd, char ret[static SHORT_SOCKET_SIZE]);

/* The process that listens on the unix socket. -ENOENT and -ECONNREFUSED while nobody does. */
int socket_peer(const char *path, pid_t *ret, struct error **ret_error);
/* Is the process one of this pod? Kubelet's cgroups say so: a socket in a pod's volume may be a link to another's. */
bool process_is_in_pod(pid_t pid, const char *pod_uid);

/*
 * Mounts `file` of the container of process `pid` (NULL: the only file of its /disk) on `name` in the folder `dir`.
 * What is mounted there already counts as done. ERROR_STORAGE says what is wrong with the image.
 */
int container_file_mount(pid_t pid, const char *file, const char *dir, const char *name, struct error **ret_error);
/* Takes away what container_file_mount() has mounted on files of `dir`, and of the folder kernel-boot in it. */
void container_files_unmount(const char *dir);
