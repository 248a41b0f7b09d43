package database

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var placeholder = regexp.MustCompile(`\$([0-9]+)`)

// outOfOrder returns what is wrong with the placeholders of a statement, "" for nothing.
func outOfOrder(statement string) string {
	for i, match := range placeholder.FindAllStringSubmatch(statement, -1) {
		if match[1] != strconv.Itoa(i+1) {
			return "$" + match[1] + " stands where $" + strconv.Itoa(i+1) + " is due"
		}
	}
	return ""
}

func TestOutOfOrderFindsTheTrap(t *testing.T) {
	for statement, ok := range map[string]bool{
		"SELECT $1, $2":                      true,
		"SELECT 1":                           true,
		"UPDATE x SET a = $2 WHERE b = $1":   false,
		"SELECT $1, $1":                      false,
		"SELECT $1, $2 WHERE $1 = $3":        false,
		"INSERT INTO x VALUES ($1, $2, $3)":  true,
		"INSERT INTO x VALUES ($0, $1, $10)": false,
	} {
		if got := outOfOrder(statement) == ""; got != ok {
			t.Errorf("outOfOrder(%q) = %q", statement, outOfOrder(statement))
		}
	}
}

// SQLite binds $2, $1 by appearance and PostgreSQL by number, so every statement numbers its
// placeholders in order of appearance, each once.
func TestPlaceholdersAreInOrder(t *testing.T) {
	statements := 0
	for _, dir := range []string{".", "../../authz"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file.Name(), ".go") || file.Name() == "placeholder_test.go" {
				continue
			}
			path := filepath.Join(dir, file.Name())
			set := token.NewFileSet()
			parsed, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(node ast.Node) bool {
				text, where, ok := literal(node)
				if !ok {
					return true
				}
				if placeholder.MatchString(text) {
					statements++
				}
				if wrong := outOfOrder(text); wrong != "" {
					t.Errorf("%s: %s", set.Position(where), wrong)
				}
				return false
			})
		}
	}
	if statements < 50 {
		t.Errorf("only %d statements were found: does the test look in the right place?", statements)
	}
}

// literal returns the text of a string, also of one put together from several by +.
func literal(node ast.Node) (text string, where token.Pos, ok bool) {
	switch n := node.(type) {
	case *ast.BasicLit:
		if n.Kind != token.STRING {
			return "", 0, false
		}
		text, err := strconv.Unquote(n.Value)
		return text, n.Pos(), err == nil
	case *ast.BinaryExpr:
		if n.Op != token.ADD {
			return "", 0, false
		}
		left, _, leftOK := literal(n.X)
		right, _, rightOK := literal(n.Y)
		return left + right, n.Pos(), leftOK || rightOK
	}
	return "", 0, false
}
