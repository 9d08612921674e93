// Command testcontrol is the reference's own test control server with a relay, both on loopback, and a small
// interface for what an administrator would do. It plays by the rules of the hosted service: a streaming map
// request is read-only, and there is no early payload.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

func main() {
	authKey := flag.String("auth-key", "", "the only auth key that is taken; empty takes everybody")
	login := flag.Bool("login", false, "whether somebody must sign in")
	approval := flag.Bool("approval", false, "whether devices must be approved")
	flag.Parse()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	control := &testcontrol.Server{
		DERPMap:            relay(),
		ExplicitBaseURL:    "http://" + listener.Addr().String(),
		RequireAuthKey:     *authKey,
		RequireAuth:        *login,
		RequireMachineAuth: *approval,
		MagicDNSDomain:     "tail.example",
		AllOnline:          true,
	}
	fmt.Printf("http://%s http://%s\n", listener.Addr(), admin.Addr())
	go func() { log.Fatal(http.Serve(admin, administration(control))) }()
	log.Fatal(http.Serve(listener, control))
}

func administration(control *testcontrol.Server) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, value any) {
		w.Header().Set("Content-Type", "application/json")
		check(json.NewEncoder(w).Encode(value))
	}
	mux.HandleFunc("/nodes", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, control.AllNodes())
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		answer(w, control.CompleteAuth(r.FormValue("page")))
	})
	mux.HandleFunc("/approve", func(w http.ResponseWriter, _ *http.Request) {
		base := control.ExplicitBaseURL
		for _, node := range control.AllNodes() {
			control.CompleteDeviceApproval(base, base+"/admin", &node.Key)
		}
		answer(w, true)
	})
	mux.HandleFunc("/expire", func(w http.ResponseWriter, r *http.Request) {
		control.SetExpireAllNodes(r.FormValue("on") == "true")
		answer(w, true)
	})
	return mux
}

// relay starts a relay with a certificate of its own and a STUN server.
func relay() *tailcfg.DERPMap {
	server := httptest.NewUnstartedServer(derpserver.Handler(derpserver.New(key.NewNode(), logger.Discard)))
	server.StartTLS()
	stun := stunserver.New(context.Background())
	check(stun.Listen("127.0.0.1:0"))
	go func() { log.Fatal(stun.Serve()) }()
	at := netip.MustParseAddrPort(server.Listener.Addr().String())
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: {
		RegionID:   1,
		RegionCode: "test",
		Nodes: []*tailcfg.DERPNode{{
			Name:             "t1",
			RegionID:         1,
			HostName:         at.Addr().String(),
			IPv4:             at.Addr().String(),
			IPv6:             "none",
			DERPPort:         int(at.Port()),
			STUNPort:         stun.LocalAddr().(*net.UDPAddr).Port,
			STUNTestIP:       at.Addr().String(),
			InsecureForTests: true,
		}},
	}}}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
