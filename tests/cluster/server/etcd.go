// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// runEtcd serves one member on a loopback port until SIGTERM. What a test cluster holds need not survive a power cut,
// so it does not wait for the disk.
func runEtcd(arguments []string) {
	flags := flag.NewFlagSet("etcd", flag.ExitOnError)
	dir := flags.String("data-dir", "", "directory of the data")
	client := flags.String("listen-client-url", "", "URL for clients")
	peer := flags.String("listen-peer-url", "", "URL for peers (there are none; etcd wants one)")
	_ = flags.Parse(arguments)

	config := embed.NewConfig()
	config.Dir = *dir
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	urls := func(text string) []url.URL {
		parsed, err := url.Parse(text)
		if err != nil || parsed.Host == "" {
			fmt.Fprintf(os.Stderr, "etcd: %q is no URL\n", text)
			os.Exit(2)
		}
		return []url.URL{*parsed}
	}
	config.ListenClientUrls = urls(*client)
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = urls(*peer)
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
	<-server.Server.ReadyNotify()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		server.Close()
	case err = <-server.Err():
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}
