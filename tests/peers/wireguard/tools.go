//go:build tools

// Package peers pins the WireGuard server of the laboratory.
package peers

import _ "golang.zx2c4.com/wireguard"
