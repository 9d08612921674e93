//go:build tools

// Package peers pins the control server of a tailnet in the laboratory.
package peers

import _ "github.com/juanfont/headscale/cmd/headscale"
