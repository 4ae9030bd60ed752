package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// TestDocs compares the table of features in the file that GATEWAY_API_DOCS names with the suite: a row for each feature with
// its channel and the tests of gateways that need it. Those that the file lacks are printed. What no test needs has a row too,
// with a test of ours.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(os.Getenv("GATEWAY_API_DOCS"))
	require.NoError(t, err)
	var missing strings.Builder
	for _, feature := range sets.List(featuresOf(allProfiles(), features.FeatureChannelExperimental)) {
		row := fmt.Sprintf("| `%s` | %s | ", feature, features.GetFeature(feature).Channel)
		var names []string
		for _, test := range tests.ConformanceTests {
			if slices.Contains(test.Features, feature) && !slices.Contains(test.Features, features.SupportMesh) {
				names = append(names, test.ShortName)
			}
		}
		slices.Sort(names)
		switch {
		case len(names) > 20:
			row += fmt.Sprintf("%d tests |\n", len(names))
		case len(names) > 0:
			row += strings.Join(names, ", ") + " |\n"
		}
		if !strings.Contains(string(text), row) {
			fmt.Fprintln(&missing, strings.TrimSuffix(row, "\n"))
		}
	}
	require.Empty(t, missing.String())
}
