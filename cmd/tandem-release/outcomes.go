package main

import (
	"tandem/internal/cli"
	"tandem/internal/lock"
	"tandem/packaging/bundle"
	"tandem/packaging/repository"
	"tandem/packaging/signing"
	"tandem/packaging/trust"
)

// outcomes is the one table of how commands end. Where an error fits several
// rows, the first one counts.
func outcomes() cli.Outcomes {
	return cli.Outcomes{
		{Exit: 0, Means: "done"},
		{Exit: 2, Means: "wrong usage", Is: cli.IsUsage}, // its hint names the command
		{Exit: 2, Errs: []error{bundle.ErrOptions}},
		{Exit: 60, Means: "another tandem-release is changing the repository", Errs: []error{lock.ErrBusy}, Hint: "wait for it to end"},
		{Exit: 3, Means: "a rollout is to be halted", Errs: []error{errHalt}, Hint: "halt it with the same command and --keys KEYS, those of snapshot and timestamp; then look why devices fell back, and yank or raise the version"},
		{Exit: 1, Errs: []error{errInsecure}, Hint: "chmod 600 it, and think whether somebody has read it; --insecure-keys takes it as it is"},
		{Exit: 1, Errs: []error{errNoKeys}, Hint: "make them with: tandem-release keygen --out KEYS"},
		{Exit: 1, Errs: []error{signing.ErrExists}, Hint: "keys are never overwritten: choose another directory, or move the old keys away"},
		{Exit: 1, Errs: []error{signing.ErrPassphrase},
			Hint: "give the passphrase at a terminal, with --passphrase-file, or in the environment as " + passphraseVariable},
		{Exit: 1, Errs: []error{repository.ErrStale}, Hint: "make the change again, from the repository as it is now"},
		{Exit: 1, Errs: []error{repository.ErrLower}, Hint: "add --allow-lower if that is what you want; to take a release back: tandem-release repo yank"},
		{Exit: 1, Errs: []error{errNobody}, Hint: "keep what the collector takes as DEVICE/NAME.json, where DEVICE is who the collector found the device to be"},
		{Exit: 1, Errs: []error{repository.ErrHalted}, Hint: "tandem-release repo status shows why; let it go on with: tandem-release repo rollout REPO RELEASE --resume --keys KEYS"},
		{Exit: 1, Errs: []error{repository.ErrRecalled}, Hint: "take the recall back first with: tandem-release repo yank REPO RELEASE --undo --keys KEYS"},
		{Exit: 1, Errs: []error{repository.ErrYanked}, Hint: "offer it again with: tandem-release repo yank REPO RELEASE --undo --keys KEYS"},
		{Exit: 1, Errs: []error{repository.ErrLast}, Hint: "take it off the list, without --from, or take it back: tandem-release repo yank"},
		{Exit: 1, Errs: []error{repository.ErrDelegated}, Hint: "change that role's list with the tool that signs it; only its rollout can be halted here"},
		{Exit: 1, Errs: []error{repository.ErrNoRelease, repository.ErrAmbiguous, repository.ErrRecall}, Hint: "see which there are with: tandem-release repo list REPO"},
		{Exit: 1, Errs: []error{repository.ErrTooLarge}, Hint: "take old releases off the list with: tandem-release repo remove REPO RELEASE --keys KEYS"},
		{Exit: 1, Errs: []error{repository.ErrChange}, Hint: "make the change again, with --out"},
		{Exit: 1, Errs: []error{errProblems},
			Hint: `restore what is damaged from a copy, sign bundles that are not trusted anew with "repo resign --all", or yank their releases`},
		{Exit: 1, Errs: []error{signing.ErrKey, repository.ErrKeys}, Hint: "use the keys that the repository's root.json names: after a rotation those are the new ones"},
		{Exit: 1, Errs: []error{repository.ErrNone}, Hint: "make one with: tandem-release repo init REPO --keys KEYS"},
		{Exit: 1, Means: "any other failure", Errs: []error{repository.ErrDamaged}, Hint: "restore the repository's metadata/ from a copy"},
		{Exit: 20, Means: "not signed by the root of trust", Errs: []error{trust.ErrUntrusted}, Hint: "sign it with: tandem-release bundle sign FILE --keys KEYS --root ROOT.json"},
		{Exit: 21, Means: "a delta bundle without the release that it builds on", Errs: []error{bundle.ErrBase}, Hint: "name the bundle of that release with --base"},
		{Exit: 24, Errs: []error{bundle.ErrCodec}, Hint: "a newer version of tandem-release may read it"},
		{Exit: 24, Means: "malformed bundle", Errs: []error{bundle.ErrMalformed}, Hint: "fetch or make the bundle again"},
	}
}
