// Package conformance runs the Gateway API's own suite, unchanged, with every feature of the profiles that it is given.
package conformance

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/gateway-api/pkg/features"
)

var profiles = []suite.ConformanceProfile{
	suite.GatewayHTTPConformanceProfile,
	suite.GatewayGRPCConformanceProfile,
	suite.GatewayTLSConformanceProfile,
	suite.GatewayTCPConformanceProfile,
	suite.GatewayUDPConformanceProfile,
}

// TestConformance runs all five profiles of gateways, or those of -conformance-profiles, with all their features. All flags
// of the suite work. With -report-output=FILE it also writes a report of each profile beside FILE. Standard error has one line
// per test and a table, standard output what the suite logs.
func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	unthrottle(t, &options)
	options.Implementation = confv1.Implementation{
		Organization: "sluice",
		Project:      "sluice",
		URL:          "https://github.com/sluice/sluice",
		Version:      version(),
		Contact:      []string{"https://github.com/sluice/sluice/issues"},
	}
	if len(options.ConformanceProfiles) == 0 {
		options.ConformanceProfiles = allProfiles()
	}
	if len(options.SupportedFeatures) == 0 {
		options.SupportedFeatures = featuresOf(options.ConformanceProfiles, channel(t, options)).UnsortedList()
	}
	if len(options.ConformanceProfiles) == len(profiles) {
		isTrue(t, options)
	}
	if options.ReportOutputPath != "" && options.RunTest == "" {
		// Registered before the suite's own cleanup, hence called when that has written the report.
		t.Cleanup(func() { summarise(t, options) })
	} else {
		options.ReportOutputPath = ""
	}
	options.Hook = func(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
		switch {
		case t.Failed():
			fmt.Fprintf(os.Stderr, "FAILED  %s\n", test.ShortName)
		case !t.Skipped():
			fmt.Fprintf(os.Stderr, "ok      %s\n", test.ShortName)
		}
	}
	conformance.RunConformanceWithOptions(t, options)
}

// unthrottle lifts the client's own limit of five requests a second, which is meant for clusters that others use too.
func unthrottle(t *testing.T, options *suite.ConformanceOptions) {
	options.RestConfig.QPS = -1
	scheme := options.Client.Scheme()
	unthrottled, err := client.New(options.RestConfig, client.Options{Scheme: scheme})
	require.NoError(t, err)
	options.Client = unthrottled
}

// channel is the release channel of the installed CRDs.
func channel(t *testing.T, options suite.ConformanceOptions) string {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	name := types.NamespacedName{Name: "gateways.gateway.networking.k8s.io"}
	require.NoError(t, options.Client.Get(context.Background(), name, crd), "the Gateway API's CRDs are not installed")
	return crd.Annotations[consts.ChannelAnnotation]
}

func allProfiles() (names []suite.ConformanceProfileName) {
	for _, profile := range profiles {
		names = append(names, profile.Name)
	}
	return names
}

// isTrue fails the test if the class promises another list of features than the one that is tested.
func isTrue(t *testing.T, options suite.ConformanceOptions) {
	class := &gatewayv1.GatewayClass{}
	require.NoError(t, options.Client.Get(context.Background(), types.NamespacedName{Name: options.GatewayClassName}, class))
	published := []features.FeatureName{}
	for _, feature := range class.Status.SupportedFeatures {
		published = append(published, features.FeatureName(feature.Name))
	}
	require.True(t, slices.IsSorted(published), "status.supportedFeatures is not sorted")
	require.ElementsMatch(t, options.SupportedFeatures, published, "status.supportedFeatures is not what is tested")
}

// withExperimentalFields are the features that need fields of the experimental channel. Other experimental features are a
// matter of behaviour, and have to be there in both channels.
var withExperimentalFields = []features.FeatureName{
	features.SupportHTTPRouteRetry,
	features.SupportHTTPRouteRetryBackendTimeout,
	features.SupportHTTPRouteRetryConnectionError,
}

// featuresOf returns all features of these profiles that the channel has fields for. With all five profiles it also returns those of
// gateways that are in no profile, so that their tests run too.
func featuresOf(names []suite.ConformanceProfileName, channel string) suite.FeaturesSet {
	found := suite.FeaturesSet{}
	for _, profile := range profiles {
		if sets.New(names...).Has(profile.Name) {
			found = found.Union(profile.CoreFeatures).Union(profile.ExtendedFeatures)
		}
	}
	if len(names) == len(profiles) {
		mesh := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
		found = found.Union(features.SetsToNamesSet(features.AllFeatures).Difference(mesh))
	}
	if channel == features.FeatureChannelStandard {
		found = found.Difference(sets.New(withExperimentalFields...))
	}
	return found
}
