// Reads request targets, one a line, as the server of net/http does, and cleans them as its router does. Writes for each the
// path in hexadecimal.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net/http"
	"os"
	"path"
	"strings"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		head := "GET " + lines.Text() + " HTTP/1.1\r\nHost: host\r\n\r\n"
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%x\n", path.Clean(request.URL.Path))
	}
}
