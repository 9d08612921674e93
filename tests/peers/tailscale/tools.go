//go:build tools

// Package peers pins the nodes and the relay of a tailnet in the laboratory.
package peers

import (
	_ "tailscale.com/cmd/derper"
	_ "tailscale.com/cmd/tailscale"
	_ "tailscale.com/cmd/tailscaled"
)
