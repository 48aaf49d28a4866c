package conformance

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// The ends a test can come to.
const (
	passed  = "pass"
	failed  = "**fail**"
	skipped = "skipped"
)

// A result is how a test ended, and why it was skipped.
type result struct {
	test   suite.ConformanceTest
	end    string
	reason string
	took   time.Duration
}

// results is what became of every test of the suite, known from the first
// moment: a test that nothing is heard of is not forgotten.
type results struct {
	path   string
	claims map[features.FeatureName][]string
	began  time.Time

	lock sync.Mutex
	all  []*result
}

// newResults is the results before anything was run, in a file that is kept up
// to date.
func newResults(folder string, tests []suite.ConformanceTest, claims map[features.FeatureName][]string) *results {
	r := &results{path: filepath.Join(folder, "table.md"), claims: claims, began: time.Now()}
	for _, test := range tests {
		r.all = append(r.all, &result{test: test, end: failed, reason: "it was not reached"})
	}
	return r
}

// timed is the tests with a watch on how long each takes.
func (r *results) timed(tests []suite.ConformanceTest) []suite.ConformanceTest {
	tests = slices.Clone(tests)
	for i := range tests {
		run, name := tests[i].Test, tests[i].ShortName
		tests[i].Test = func(t *testing.T, s *suite.ConformanceTestSuite) {
			began := time.Now()
			// After all that the test has started at the same time.
			t.Cleanup(func() { r.update(name, func(one *result) { one.took = time.Since(began) }) })
			run(t, s)
		}
	}
	return tests
}

// skip says beforehand why a test will not be run.
func (r *results) skip(name, reason string) {
	r.update(name, func(one *result) { one.end, one.reason = skipped, reason })
}

// record says how a test ended. It is the suite's hook.
func (r *results) record(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
	r.update(test.ShortName, func(one *result) {
		switch {
		case t.Failed():
			one.end, one.reason = failed, "the log says"
		case !t.Skipped():
			one.end, one.reason = passed, ""
		case one.end != skipped:
			one.end, one.reason = skipped, "it skipped itself; the log says why"
		}
		if one.end != skipped {
			fmt.Fprintf(os.Stderr, "%-8s %-60s %6.1f s\n", strings.Trim(one.end, "*"), test.ShortName, one.took.Seconds())
		}
	})
	if err := r.write(); err != nil {
		t.Errorf("the table: %v", err)
	}
}

func (r *results) update(name string, change func(*result)) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if at := slices.IndexFunc(r.all, func(one *result) bool { return one.test.ShortName == name }); at >= 0 {
		change(r.all[at])
	}
}

// write writes the table.
func (r *results) write() error {
	r.lock.Lock()
	defer r.lock.Unlock()
	var text strings.Builder
	r.print(&text)
	draft := r.path + ".draft"
	if err := os.WriteFile(draft, []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(draft, r.path)
}

func (r *results) print(out io.Writer) {
	count := map[string]int{}
	for _, one := range r.all {
		count[one.end]++
	}
	fmt.Fprintf(out, "# Conformance with the Gateway API %s\n\n", consts.BundleVersion)
	fmt.Fprintf(out, "%d tests passed, %d failed, %d were skipped, in %s.\n\n",
		count[passed], count[failed], count[skipped], time.Since(r.began).Round(time.Second))
	fmt.Fprint(out, "| feature | claimed by | result | tests |\n|---|---|---|---|\n")
	for _, row := range r.byFeature() {
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", row.feature, strings.Join(r.claims[row.feature], ", "), row.end, row.tests)
	}
	fmt.Fprint(out, "\n| test | result | s | reason |\n|---|---|--:|---|\n")
	for _, one := range r.all {
		fmt.Fprintf(out, "| %s | %s | %.1f | %s |\n", one.test.ShortName, one.end, one.took.Seconds(), one.reason)
	}
}

type featureRow struct {
	feature features.FeatureName
	end     string
	tests   string
}

// byFeature sums up the tests of each feature, in order of names. One failed
// test fails its features.
func (r *results) byFeature() []featureRow {
	ofFeature := map[features.FeatureName][]*result{}
	for feature := range features.AllFeatures {
		ofFeature[feature.Name] = nil
	}
	for _, one := range r.all {
		for _, feature := range one.test.Features {
			ofFeature[feature] = append(ofFeature[feature], one)
		}
	}
	var rows []featureRow
	for feature, its := range ofFeature {
		count, why, reasons := map[string]int{}, []string{}, map[string]bool{}
		for _, one := range its {
			count[one.end]++
			if one.end == failed {
				why = append(why, one.test.ShortName)
			}
			if one.end == skipped && !reasons[one.reason] {
				reasons[one.reason] = true
				why = append(why, one.reason)
			}
		}
		row := featureRow{feature: feature}
		row.tests = fmt.Sprintf("%d of %d", count[passed], len(its))
		switch {
		case len(its) == 0:
			row.end, row.tests = skipped, "the suite has none"
		case count[failed] > 0:
			row.end = failed
		case count[passed] > 0:
			row.end = passed
		default:
			row.end = skipped
		}
		if len(why) > 0 {
			row.tests += ": " + strings.Join(why, "; ")
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(one, other featureRow) int {
		return strings.Compare(string(one.feature), string(other.feature))
	})
	return rows
}
