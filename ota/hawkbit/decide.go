package hawkbit

// move is what is to be done about what a poll found.
type move struct {
	// Cancel is the number of an action that the server calls off; 0: none.
	Cancel int64
	// Accept says that it is called off here, too; Why says why not.
	Accept bool
	Why    string

	Read    offered // a deployment to read
	Confirm offered // a confirmation to ask a person for, or to give
	// Gone says that the server does not know the action that is kept any more.
	Gone bool
}

// wanted is what a poll found there is to do.
type wanted struct {
	cancel, deploy, confirm offered
}

// decide says what to do about what the server wants, by what is kept of its last
// action and by what the device is at.
func decide(kept *Action, w wanted, f *Facts) move {
	switch {
	case w.cancel.number != 0:
		return decideCancel(kept, w.cancel.number, f)
	case w.confirm.number != 0:
		return move{Confirm: w.confirm, Gone: gone(kept, w.confirm.number)}
	case w.deploy.number != 0:
		switch {
		case kept == nil || kept.Number != w.deploy.number:
			return move{Read: w.deploy, Gone: gone(kept, w.deploy.number)}
		case kept.Step == Open && kept.Looked && kept.Query == w.deploy.query:
			return move{}
		}
		// It has other wishes; or it is over here and is offered all the same: then
		// the server has lost what it was told, or is another one that counts anew.
		// What is installed already is done again, without an installation.
		return move{Read: w.deploy}
	}
	return move{Gone: gone(kept, 0)}
}

// gone reports whether an action that is kept open is no longer one of the
// server's: force quit, superseded, or its rollout deleted.
func gone(kept *Action, now int64) bool {
	return kept != nil && kept.Step == Open && kept.Number != now
}

// decideCancel says what to answer when an action is called off. Before its
// installation has begun it is; after that it is not, and its outcome is
// reported. One that is not known here is not under way either.
func decideCancel(kept *Action, number int64, f *Facts) move {
	m := move{Cancel: number, Accept: true}
	if kept == nil || kept.Number != number {
		return m
	}
	if kept.Step != Open {
		return m
	}
	j := judge(kept, f)
	for _, i := range j.todo {
		if p := &kept.Parts[i]; f.Installing == p.App {
			j.begun = true
		}
	}
	fresh := 0
	for _, p := range kept.Parts {
		if !p.Had {
			fresh++
		}
	}
	if j.begun || len(j.todo) < fresh {
		m.Accept, m.Why = false, "its installation has begun"
	}
	return m
}
