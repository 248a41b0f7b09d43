package authz

import "context"

// AskScrub says whether an actor may see how the stored recordings are, and with now, have them all read
// again, which is recorded. Those who look after the node may, and auditors.
func (a *Authority) AskScrub(ctx context.Context, by Actor, now bool) error {
	event := Event{OpType: "recording.scrub.ask", ResourceType: "node", ResourceID: a.node}
	return a.change(ctx, by, event, func(w *work) error {
		if _, err := w.need("check the stored recordings", SiteAdmin, SiteSecurity, SiteAuditor); err != nil || !now {
			return err
		}
		_, err := w.record(nil)
		return err
	})
}
