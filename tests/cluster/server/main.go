// SPDX-License-Identifier: Apache-2.0

// The programs of a Kubernetes control plane in one, for the tests: `cluster NAME [flags]`, NAME being etcd or
// kube-apiserver. One program links once what four programs share.
package main

import (
	"fmt"
	"os"

	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: cluster etcd|kube-apiserver [flags]")
		os.Exit(2)
	}
	name := os.Args[1]
	os.Args = append([]string{name}, os.Args[2:]...)
	switch name {
	case "etcd":
		runEtcd(os.Args[1:])
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	default:
		fmt.Fprintf(os.Stderr, "cluster: no program %q here\n", name)
		os.Exit(2)
	}
}
