/* SPDX-License-Identifier: Apache-2.0 */
/* Every limit on what others can make this project hold or wait for. Sizes are bytes, times are microseconds (usec). */
#pragma once

#define USEC_PER_MSEC 1000ULL
#define USEC_PER_SEC  1000000ULL

/* Manifests. */
#define LIMIT_MANIFEST_BYTES   (4U * 1024 * 1024)
#define LIMIT_MANIFEST_DEPTH   64U
#define LIMIT_MANIFEST_NODES   200000U /* after aliases are expanded: what stops a "billion laughs" file */
#define LIMIT_MANIFEST_ALIASES 1000U
#define LIMIT_MANIFEST_FAULTS  100U /* reported in one run; the rest is only counted */

/* Command server (JSON-RPC over a unix socket). */
#define LIMIT_RPC_REQUEST_BYTES (4U * 1024 * 1024)
#define LIMIT_RPC_REPLY_BYTES   (16U * 1024 * 1024)
#define LIMIT_RPC_OUTPUT_BYTES  (32U * 1024 * 1024) /* queued for one client that does not read */
#define LIMIT_RPC_NESTING       64U
#define LIMIT_RPC_CLIENTS       32U
#define LIMIT_RPC_PENDING       64U                 /* calls of one client that have no answer yet */
#define LIMIT_RPC_BACKLOG_BYTES (1U * 1024 * 1024)  /* queued answers from which on a client's requests are not read */
#define LIMIT_RPC_ID_BYTES      128U                /* a request's id, when it is a string */
#define RPC_TRIM_USEC           (1 * USEC_PER_SEC)  /* from a client's end to the return of freed memory */
#define LIMIT_RPC_LINE_USEC     (30 * USEC_PER_SEC) /* from the first byte of a request to its line end */

/* QMP and guest agent. */
#define LIMIT_QMP_MESSAGE_BYTES (64U * 1024 * 1024)
#define LIMIT_QMP_NESTING       128U
#define LIMIT_QGA_MESSAGE_BYTES (64U * 1024 * 1024)
#define LIMIT_QMP_QUEUE         65536U /* calls of one client that have no answer yet */
/* QEMU's monitor/monitor-internal.h: with out-of-band enabled it stops reading at 8 unanswered commands
 * (QMP_REQ_QUEUE_LEN_MAX). Fewer of ours leave room for the one that must get through. */
#define LIMIT_QMP_IN_FLIGHT   6U
#define LIMIT_QMP_EVENT_NAMES 256U /* that a rate limit keeps state for */
#define LIMIT_QMP_EVENT_RULES 64U
#define LIMIT_QGA_QUEUE       256U
#define LIMIT_QGA_FILE_CHUNK                                                                                           \
    (48U * 1024) /* of a guest file in one command; the agent's own default for reads is 4 KiB */
#define LIMIT_QEMU_STDERR_BYTES  (16U * 1024) /* the end of what QEMU wrote is kept for error texts */
#define LIMIT_CHILD_OUTPUT_BYTES (1024U * 1024)

/* Set by the monitor in the environment of a launcher that it starts in the place of one that was killed. */
#define RESTARTED_VARIABLE "VMLET_RESTARTED"

/* Waiting for QEMU. All are multiplied by TCG_TIMEOUT_FACTOR where the guest is emulated. */
#define TIMEOUT_QMP_GREETING_USEC (30 * USEC_PER_SEC)
#define TIMEOUT_QMP_QUICK_USEC    (10 * USEC_PER_SEC) /* answers from memory: query-*, device properties */
#define TIMEOUT_QMP_DEFAULT_USEC  (30 * USEC_PER_SEC)
#define TIMEOUT_QMP_STORAGE_USEC  (120 * USEC_PER_SEC)  /* waits for disks: drains, opens or flushes images */
#define TIMEOUT_QMP_MEMORY_USEC   (600 * USEC_PER_SEC)  /* touches guest memory: preallocation, memsave */
#define TIMEOUT_QMP_LONG_USEC     (3600 * USEC_PER_SEC) /* copies all of it: dump-guest-memory */
#define AGENT_INTERVAL_MIN_USEC   (5 * USEC_PER_SEC)    /* nothing about the guest is asked more often */
#define TIMEOUT_QGA_SYNC_USEC     (5 * USEC_PER_SEC)
#define QGA_SYNC_REPEAT_USEC      (1 * USEC_PER_SEC)
#define TIMEOUT_QGA_DEFAULT_USEC  (10 * USEC_PER_SEC)
#define TIMEOUT_QGA_SLOW_USEC     (60 * USEC_PER_SEC)   /* walks devices, asks other daemons of the guest */
#define TIMEOUT_QGA_FREEZE_USEC   (3600 * USEC_PER_SEC) /* the guest's writers and VSS decide */
#define TIMEOUT_QGA_NOREPLY_USEC  (5 * USEC_PER_SEC)    /* for the channel to take the bytes */
#define TIMEOUT_QGA_EXEC_USEC     (60 * USEC_PER_SEC)
/* guest-exec has no event, so its end must be asked for; the interval doubles from the first to the second. */
#define QGA_EXEC_POLL_MIN_USEC   (5 * USEC_PER_MSEC)
#define QGA_EXEC_POLL_MAX_USEC   (100 * USEC_PER_MSEC)
#define TIMEOUT_QEMU_TERM_USEC   (2 * USEC_PER_SEC)  /* from SIGTERM to SIGKILL */
#define TIMEOUT_QEMU_QUIT_USEC   (2 * USEC_PER_SEC)  /* from `quit` to SIGTERM */
#define KILL_WAIT_MSEC           2000                /* for the end of a process after SIGKILL */
#define TIMEOUT_QEMU_PROBE_USEC  (20 * USEC_PER_SEC) /* a throw-away QEMU without a machine, asked what it can do */
#define QMP_RECONNECT_USEC       (1 * USEC_PER_SEC)  /* after the monitor of a running VM was lost */
#define STATE_SAVE_USEC          (2 * USEC_PER_MSEC) /* after the answer to a Pause */
#define QMP_BACKLOG              64                  /* launchers that were killed while QEMU accepted nobody */
#define QEMU_LISTENERS_MAX       8                   /* sockets that one QEMU is given to listen on */
#define TIMEOUT_ORPHAN_USEC      (10 * USEC_PER_SEC) /* for a QEMU that nobody can take over to quit */
#define TIMEOUT_ACCEL_PROBE_USEC (300 * USEC_PER_MSEC)
#define TCG_TIMEOUT_FACTOR       10U

/* `vmlet run` and `smoke`: for what is waited for, unless --timeout says otherwise. */
#define RUN_TIMEOUT_USEC (120 * USEC_PER_SEC)

/* Files of what was found out about this host. */
#define LIMIT_CACHE_BYTES (256U * 1024)

/* Graceful stop: the ACPI button is pressed again at this interval, because a guest that boots can miss it. */
#define SHUTDOWN_REPEAT_USEC         (5 * USEC_PER_SEC)
#define DEFAULT_GRACE_PERIOD_SECONDS 30U

/* The guest's clock is set by the agent after a pause: tried again, and given up (compat §1.2). */
#define CLOCK_RETRY_USEC (5 * USEC_PER_SEC)
#define CLOCK_TRY_USEC   (60 * USEC_PER_SEC)
/* A guest that nobody thawed, and that could not be thawed, is tried again. */
#define THAW_RETRY_USEC (5 * USEC_PER_SEC)

/* accessCredentials by the agent. */
#define LIMIT_CREDENTIAL_BYTES     (256U * 1024) /* one key of a secret */
#define CREDENTIALS_RETRY_MIN_USEC (5 * USEC_PER_SEC)
#define CREDENTIALS_RETRY_MAX_USEC (300 * USEC_PER_SEC)
#define CREDENTIALS_SETTLE_USEC    (100 * USEC_PER_MSEC) /* after a change, for the others of the same update */
#define CREDENTIALS_LOOK_USEC      (60 * USEC_PER_SEC)   /* where the host gives no inotify instance */
/* A guest that an I/O error stopped is resumed, at intervals that double (compat §5.5). */
#define IO_RETRY_MIN_USEC (10 * USEC_PER_SEC)
#define IO_RETRY_MAX_USEC (180 * USEC_PER_SEC)

/* Statistics. */
#define STATS_CACHE_USEC          (3250 * USEC_PER_MSEC) /* compat §1.6: the launcher keeps them for 3.25 s */
#define MAX_BALLOON_STATS_SECONDS 86400
#define BALLOON_STATS_SECONDS     10                   /* compat §2.1: between two reports of the guest's balloon */
#define DIRTY_RATE_USEC           (1 * USEC_PER_SEC)   /* compat §1.2: measured for 1 s */
#define DIRTY_RATE_RETRY_USEC     (50 * USEC_PER_MSEC) /* QEMU has no event for its end */

/* Console. */
#define LIMIT_CONSOLE_REPLAY_BYTES (256U * 1024)
#define LIMIT_CONSOLE_QUEUE_BYTES  (1024U * 1024) /* a viewer that reads slower than this loses its connection */
#define LIMIT_CONSOLE_VIEWERS      16U
/* The console's log: of one file, and of files with the one that is written. A pod's ephemeral-storage pays for it. */
#define LIMIT_CONSOLE_LOG_BYTES  (4U * 1024 * 1024)
#define LIMIT_CONSOLE_LOG_FILES  4U
#define LIMIT_FIRMWARE_LOG_BYTES (1024U * 1024) /* of what the firmware says on its debug port, for one launcher */
#define CONSOLE_LOG_REPLAY       (32U * 1024)   /* of the log's end, to viewers of an adopted VM */

/* Network set-up. */
#define TIMEOUT_NFT_USEC (10 * USEC_PER_SEC)
#define LIMIT_DHCP_PER_SECOND                                                                                          \
    64U /* requests of one guest that are looked at; the kernel drops what waits behind them */
#define RA_INTERVAL_USEC      (600 * USEC_PER_SEC) /* between unasked router advertisements (RFC 4861: 4 to 1800 s) */
#define LIMIT_NET_STATE_BYTES (1024U * 1024)       /* what netsetup keeps about one VM */

/* Events kept for subscribers that come back. */
#define LIMIT_EVENT_RING       1024U
#define LIMIT_EVENT_FILE_BYTES (1024U * 1024)

/* Volumes. */
#define LIMIT_DISK_BYTES            (1ULL << 50)          /* a disk that claims more is a trap, not a disk */
#define LIMIT_VOLUME_FILE_BYTES     (8U * 1024 * 1024)    /* one file of a configMap, secret… (etcd takes 1.5 MiB) */
#define LIMIT_VOLUME_TOTAL_BYTES    (64ULL * 1024 * 1024) /* all files of one */
#define LIMIT_VOLUME_FILES          4096U
#define LIMIT_VOLUME_DEPTH          8U
#define DEFAULT_FILESYSTEM_OVERHEAD "0.055" /* compat §4.4: what of a claim its file system keeps */
#define LIMIT_QCOW2_SNAPSHOTS       256U    /* inside one image from outside: each can hold 128 KiB of names */

/* Container disks on the node. */
#define LIMIT_CGROUP_FILE_BYTES     65536U             /* /proc/PID/cgroup */
#define LIMIT_PROC_FILE_BYTES       (1024U * 1024)     /* /proc/stat has a line for each interrupt in it */
#define DOWNWARD_METRICS_USEC       (5 * USEC_PER_SEC) /* between two versions of the metrics disk: KubeVirt's interval */
#define METRICS_REQUEST_USEC        (1 * USEC_PER_SEC) /* between two answers on the metrics channel: KubeVirt's, too */
#define LIMIT_METRICS_REQUEST_BYTES 256U

/* A child that examines a foreign image or makes one (qemu-img). */
#define LIMIT_IMAGE_CHECK_MEMORY_BYTES (2000ULL * 1024 * 1024) /* compat: disk-verification memory limit 2000Mi */
#define LIMIT_IMAGE_CHECK_CPU_SECONDS  30U
#define TIMEOUT_IMAGE_USEC             (60 * USEC_PER_SEC)

/* The monitor (PID 1 of the pod). */
#define LIMIT_STATE_FILE_BYTES          (256U * 1024)
#define LIMIT_LAUNCHER_RESTARTS         10U /* more crashes than this within the window end the guest */
#define LAUNCHER_RESTART_WINDOW_USEC    (60 * USEC_PER_SEC)
#define LAUNCHER_STEADY_USEC            (1 * USEC_PER_SEC) /* one that lived as long was up: its crash starts no loop */
#define TIMEOUT_GUEST_TERM_USEC         (10 * USEC_PER_SEC) /* from SIGTERM to SIGKILL for a QEMU without a launcher */
#define TIMEOUT_ISTIO_USEC              (250 * USEC_PER_MSEC)
#define LIMIT_SHOWN_LOGS                8U
#define LIMIT_SHOWN_LOG_BYTES           (16U * 1024)
#define LIMIT_TERMINATION_MESSAGE_BYTES 4096U /* what kubelet reads of it */

/* Tools beside the launcher. */
#define LIMIT_TAIL_LINE_BYTES   (64U * 1024)       /* a longer line is printed in pieces as it comes */
#define TIMEOUT_TAIL_FLUSH_USEC (2 * USEC_PER_SEC) /* for a reader that is slow when the program is told to end */
#define WATCH_FALLBACK_USEC                                                                                            \
    (1 * USEC_PER_SEC) /* between looks where no event tells: see tools/watch.h, vmlet/locate.c */
#define CONTAINER_DISK_BACKLOG    50
#define LIMIT_CONTAINER_DISK_PATH 102U                /* compat: KubeVirt's limit for --copy-path */
#define TIMEOUT_FREEZE_USEC       (60 * USEC_PER_SEC) /* compat: the extended deadline */
#define TIMEOUT_CALL_USEC         (20 * USEC_PER_SEC) /* compat: the long deadline */
#define TIMEOUT_SHORT_CALL_USEC   (5 * USEC_PER_SEC)  /* compat: the short deadline; also what Exec adds to its own */

#define LIMIT_UNIX_PATH 107U /* sun_path without its NUL, unix(7) */

/* Kubernetes API. */
#define LIMIT_KUBE_CONFIG_BYTES   (1024U * 1024) /* a kubeconfig, a certificate, a token */
#define LIMIT_KUBE_REPLY_BYTES    (64U * 1024 * 1024)
#define LIMIT_KUBE_EVENT_BYTES    (8U * 1024 * 1024)  /* one line of a watch; etcd takes objects of 1.5 MiB */
#define LIMIT_KUBE_PAGE           50U                 /* objects in a page of a list: bounds what is parsed at once */
#define LIMIT_KUBE_RETRIES        10U                 /* of a call that the server asks to send again */
#define LIMIT_KUBE_RETRY_USEC     (60 * USEC_PER_SEC) /* the longest that the server may ask to wait */
#define LIMIT_KUBE_EVENT_SERIES   1024U               /* Events that are remembered, so that a repetition is counted */
#define LIMIT_KUBE_EVENT_BACKLOG  4096U               /* the same, with those that could not be written yet */
#define LIMIT_KUBE_EVENT_CALLS    16U                 /* Events that are written at a time */
#define LIMIT_KUBE_EVENT_MESSAGES 10U                 /* different ones about one matter that are told apart */
#define LIMIT_KUBE_EVENT_ATTEMPTS 6U
#define KUBE_EVENT_SIMILAR_USEC   (600 * USEC_PER_SEC)
#define KUBE_EVENT_REPEAT_USEC    (10 * USEC_PER_SEC) /* between two writes of one Event's count */
#define TIMEOUT_KUBE_CONNECT_USEC (10 * USEC_PER_SEC)
#define TIMEOUT_KUBE_CALL_USEC    (30 * USEC_PER_SEC)
#define TIMEOUT_KUBE_DEAD_USEC    (30 * USEC_PER_SEC) /* sent bytes that nobody acknowledges: the connection is dead */
/* The server ends a watch after half of this to all of it, drawn at random. */
#define TIMEOUT_KUBE_WATCH_USEC     (600 * USEC_PER_SEC)
#define KUBE_BACKOFF_FIRST_USEC     (500 * USEC_PER_MSEC) /* between attempts to list or watch */
#define KUBE_BACKOFF_LAST_USEC      (30 * USEC_PER_SEC)
#define KUBE_QUEUE_FIRST_USEC       (10 * USEC_PER_MSEC) /* between attempts at one key of a work queue */
#define KUBE_QUEUE_LAST_USEC        (300 * USEC_PER_SEC)
#define KUBE_LEASE_DURATION_SECONDS 15U                 /* client-go's defaults, so that other tools judge alike */
#define KUBE_LEASE_RENEW_USEC       (10 * USEC_PER_SEC) /* not renewed for so long: no leader any more */
#define KUBE_LEASE_RETRY_USEC       (2 * USEC_PER_SEC)

/* virt-handler */
#define LIMIT_GRPC_MESSAGE_BYTES   (1024U * 1024) /* kubelet's largest, with a thousand device names, is about 30 KiB */
#define LIMIT_GRPC_CONNECTIONS     16U
#define LIMIT_GRPC_STREAMS         32U
#define TIMEOUT_GRPC_USEC          (10 * USEC_PER_SEC)
#define HANDLER_DEVICE_COUNT       1000U               /* how many VMs may use /dev/kvm of a node: KubeVirt's default */
#define HANDLER_REGISTER_LAST_USEC (10 * USEC_PER_SEC) /* between attempts to register with kubelet */
#define LIMIT_HANDLER_RECORD_BYTES (256U * 1024)
#define LIMIT_HANDLER_OUTPUT_BYTES (1024U * 1024)       /* of netsetup */
#define HANDLER_WORKERS            10U                  /* instances that are worked on at once */
#define HANDLER_SOCKET_USEC        (180 * USEC_PER_SEC) /* a launcher that never listens: KubeVirt's limit */
#define TIMEOUT_HANDLER_CALL_USEC  (20 * USEC_PER_SEC)  /* KubeVirt's for a command of the launcher */
#define TIMEOUT_HANDLER_MOUNT_USEC (60 * USEC_PER_SEC)  /* container disks and device nodes of one pod */
#define HANDLER_TIDY_USEC          (5 * USEC_PER_SEC)
#define HANDLER_WATCH_BURST        20U /* new sockets of a pod that are looked at in a second */
#define TIMEOUT_NETSETUP_USEC      (60 * USEC_PER_SEC)
#define HANDLER_HEARTBEAT_USEC     (60 * USEC_PER_SEC)

/* The HTTP server for kubelet's probes and Prometheus. */
#define LIMIT_SERVE_CLIENTS       16U
#define LIMIT_SERVE_REQUEST_BYTES (16U * 1024)
#define TIMEOUT_SERVE_USEC        (10 * USEC_PER_SEC)

/* virt-controller. */
#define LIMIT_CONTROLLER_WORKERS   16U /* objects of one kind that are worked on at a time: one call each */
#define LIMIT_CONTROLLER_STEPS     20U /* calls for one object until others have their turn */
#define CONTROLLER_TIDY_USEC       (5 * USEC_PER_SEC)
#define VM_BACKOFF_FIRST_SECONDS   10 /* compat §6.2: 10 * n², and up to half of it more, at most 300 */
#define VM_BACKOFF_LAST_SECONDS    300
#define DATA_VOLUMES_AGAIN_SECONDS 60 /* whether CDI has been installed meanwhile */
/* A launcher pod that has ended: the node agent knows how its guest ended, and has this long to say so. */
#define HANDOVER_GRACE_SECONDS 30
#define LIMIT_REPLICA_BURST    500U /* instances of one replica set that are made or deleted before it looks again */
