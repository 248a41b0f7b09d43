package authz

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sallyport/internal/database"
)

// eligiblePeople are those who may vote at a level now, by name, without the requester.
func eligiblePeople(tx database.Tx, level Level, project, requester string, now time.Time) ([]string, error) {
	users, err := loadUsers(tx)
	if err != nil {
		return nil, err
	}
	var members []Membership
	if level.Eligible != "" {
		if members, err = loadMemberships(tx, "project = ? AND role = ?", project, string(level.Eligible)); err != nil {
			return nil, err
		}
	}
	var people []string
	for _, u := range users {
		holds := level.Site != "" && u.SiteRole == level.Site || slices.ContainsFunc(members, func(m Membership) bool {
			return m.User == u.Name && m.live(now)
		})
		if holds && u.State == stateActive && u.Name != requester {
			people = append(people, u.Name)
		}
	}
	return people, nil
}

// checkQuorums denies a request that could never be approved: every level needs its number of
// people, and one person counts for one level only.
func (w *work) checkQuorums(p Project, requester string) error {
	people := make([][]string, len(p.Levels))
	for i, level := range p.Levels {
		var err error
		if people[i], err = eligiblePeople(w.tx, level, p.Name, requester, w.now); err != nil {
			return err
		}
	}
	level, missing := firstShortLevel(p.Levels, people)
	if missing == 0 {
		return nil
	}
	return deny("request.no-quorum", fmt.Sprintf("Nobody could approve this: level %d (%s) needs %d more %s other than you, "+
		"each person counting for one level.", level+1, p.Levels[level].Name, missing, plural(missing, "person", "people")),
		fmt.Sprintf("eligible at that level: %s", strings.Join(people[level], ", ")))
}

// firstShortLevel matches people to the votes that the levels need, each person to one, and returns
// the first level that cannot be filled and how many people it lacks; 0 when all can.
func firstShortLevel(levels []Level, people [][]string) (level, missing int) {
	votes := map[string]int{} // person -> the level they are matched to
	for i, l := range levels {
		for vote := range l.Quorum {
			if !match(i, people, votes, map[string]bool{}) {
				return i, l.Quorum - vote
			}
		}
	}
	return 0, 0
}

// match finds a person for one more vote at a level, moving others where they can stand in elsewhere.
func match(level int, people [][]string, votes map[string]int, seen map[string]bool) bool {
	for _, person := range people[level] {
		if seen[person] {
			continue
		}
		seen[person] = true
		taken, ok := votes[person]
		if !ok || taken != level && match(taken, people, votes, seen) {
			votes[person] = level
			return true
		}
	}
	return false
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
