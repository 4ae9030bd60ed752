package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/yaml"
)

// version is that of the chart under test, which the caller knows.
func version() string {
	if version := os.Getenv("SLUICE_VERSION"); version != "" {
		return version
	}
	return "unreleased"
}

// summarise splits the suite's report by profile, prints a table of it, and fails the test if something was left out.
func summarise(t *testing.T, options suite.ConformanceOptions) {
	text, err := os.ReadFile(options.ReportOutputPath)
	require.NoError(t, err)
	var report confv1.ConformanceReport
	require.NoError(t, yaml.Unmarshal(text, &report))

	order := func(report confv1.ProfileReport) int {
		return slices.Index(options.ConformanceProfiles, suite.ConformanceProfileName(report.Name))
	}
	slices.SortFunc(report.ProfileReports, func(a, b confv1.ProfileReport) int { return order(a) - order(b) })
	table := &strings.Builder{}
	fmt.Fprintf(table, "\nGateway API %s, %s channel: tests passed, failed, skipped\n", report.GatewayAPIVersion, report.GatewayAPIChannel)
	fmt.Fprintf(table, "%-14s %18s %18s  %s\n", "profile", "core", "extended", "extended features")
	for _, profile := range report.ProfileReports {
		extended := confv1.ExtendedStatus{}
		if profile.Extended != nil {
			extended = *profile.Extended
		}
		supported := len(extended.SupportedFeatures)
		fmt.Fprintf(table, "%-14s %18s %18s  %d of %d\n", profile.Name, figures(profile.Core), figures(extended.Status),
			supported, supported+len(extended.UnsupportedFeatures))
		if skipped := append(profile.Core.SkippedTests, extended.SkippedTests...); len(skipped) > 0 {
			t.Errorf("%s: skipped %v", profile.Name, skipped)
		}

		one := report
		one.ProfileReports = []confv1.ProfileReport{profile}
		text, err := yaml.Marshal(one)
		require.NoError(t, err)
		file := filepath.Join(filepath.Dir(options.ReportOutputPath), profile.Name+".yaml")
		require.NoError(t, os.WriteFile(file, text, 0o644))
	}
	if missing := len(options.ConformanceProfiles) - len(report.ProfileReports); missing > 0 {
		t.Errorf("%d of the profiles were not run", missing)
	}
	fmt.Fprint(os.Stderr, table)
}

func figures(status confv1.Status) string {
	return fmt.Sprintf("%d %d %d", status.Passed, status.Failed, status.Skipped)
}
