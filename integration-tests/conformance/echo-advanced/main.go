// Command echo-advanced is what the mesh tests of the Gateway API's conformance
// suite run in their pods: a server that answers with what it was asked, and,
// called as `client`, a client that prints the answers in the form that the
// suite reads. It takes the arguments that the suite and its manifests use.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	run, arguments := serve, os.Args[1:]
	if filepath.Base(os.Args[0]) == "client" {
		run = ask
	}
	if err := run(arguments); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
