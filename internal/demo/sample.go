package demo

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// sampleRows is how many synthetic people the sample files hold.
const sampleRows = 200

// writeSample puts a project's sample files into a folder that does not exist
// yet. Every value is made up by a generator with a fixed seed: the same
// files come out each time, and nobody is in them.
func writeSample(dir, project string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil // the person's own from now on
	}
	partial, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return fmt.Errorf("make sample data: %w", err)
	}
	defer os.RemoveAll(partial) // gone already when all went well
	for name, text := range sampleFiles(project) {
		if err := os.WriteFile(filepath.Join(partial, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("make sample data: %w", err)
		}
	}
	// Two sessions may come at once; the first that renames makes the folder.
	if err := os.Rename(partial, dir); err != nil {
		if _, missing := os.Stat(dir); missing != nil {
			return fmt.Errorf("make sample data: %w", err)
		}
	}
	return nil
}

// sampleFiles are the files of one project by name.
func sampleFiles(project string) map[string]string {
	random := rand.New(rand.NewPCG(1, 2))
	files := map[string]string{"README.txt": "Synthetic data of the demo project " + project + ". No value belongs to a person.\n"}
	switch project {
	case "genomics":
		files["genotypes.tsv"] = genotypes(random)
		files["phenotypes.tsv"] = phenotypes(random)
	default:
		files["visits.csv"] = visits(random)
	}
	return files
}

// genotypes are calls at twelve sites, as VCF writes them.
func genotypes(random *rand.Rand) string {
	calls := []string{"0/0", "0/0", "0/0", "0/1", "0/1", "1/1", "./."}
	var b strings.Builder
	b.WriteString("sample")
	for site := range 12 {
		fmt.Fprintf(&b, "\trs%07d", 1000003+site*7919)
	}
	b.WriteByte('\n')
	for row := range sampleRows {
		fmt.Fprintf(&b, "SYN%04d", row+1)
		for range 12 {
			b.WriteString("\t" + calls[random.IntN(len(calls))])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func phenotypes(random *rand.Rand) string {
	var b strings.Builder
	b.WriteString("sample\tage\tsex\tbmi\tsystolic\tdiabetes\n")
	for row := range sampleRows {
		fmt.Fprintf(&b, "SYN%04d\t%d\t%c\t%.1f\t%d\t%d\n", row+1, 40+random.IntN(40), "FM"[random.IntN(2)],
			22+random.NormFloat64()*3.5, 118+random.IntN(40), random.IntN(8)/7)
	}
	return b.String()
}

func visits(random *rand.Rand) string {
	var b strings.Builder
	b.WriteString("participant,visit,year,grip_kg,walk_s\n")
	for row := range sampleRows {
		for visit := range 3 {
			fmt.Fprintf(&b, "CO%04d,%d,%d,%.1f,%.2f\n", row+1, visit+1, 2018+2*visit,
				30+random.NormFloat64()*8, 3+random.Float64()*2)
		}
	}
	return b.String()
}
