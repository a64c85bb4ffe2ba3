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
		cli.On(0, "done", nil, ""),
		cli.On(2, "wrong usage", cli.IsUsage, ""), // its hint names the command
		cli.On(2, "", cli.Any(bundle.ErrOptions), ""),
		cli.On(60, "another tandem-release is changing the repository", cli.Any(lock.ErrBusy), "wait for it to end"),
		cli.On(3, "a rollout is to be halted", cli.Any(errHalt), "halt it with the same command and --keys KEYS, those of snapshot and timestamp; then look why devices fell back, and yank or raise the version"),
		cli.On(1, "", cli.Any(errInsecure), "chmod 600 it, and think whether somebody has read it; --insecure-keys takes it as it is"),
		cli.On(1, "", cli.Any(errNoKeys), "make them with: tandem-release keygen --out KEYS"),
		cli.On(1, "", cli.Any(signing.ErrExists), "keys are never overwritten: choose another directory, or move the old keys away"),
		cli.On(1, "", cli.Any(signing.ErrPassphrase),
			"give the passphrase at a terminal, with --passphrase-file, or in the environment as "+passphraseVariable),
		cli.On(1, "", cli.Any(repository.ErrStale), "make the change again, from the repository as it is now"),
		cli.On(1, "", cli.Any(repository.ErrLower), "add --allow-lower if that is what you want; to take a release back: tandem-release repo yank"),
		cli.On(1, "", cli.Any(errNobody), "keep what the collector takes as DEVICE/NAME.json, where DEVICE is who the collector found the device to be"),
		cli.On(1, "", cli.Any(repository.ErrHalted), "tandem-release repo status shows why; let it go on with: tandem-release repo rollout REPO RELEASE --resume --keys KEYS"),
		cli.On(1, "", cli.Any(repository.ErrRecalled), "take the recall back first with: tandem-release repo yank REPO RELEASE --undo --keys KEYS"),
		cli.On(1, "", cli.Any(repository.ErrYanked), "offer it again with: tandem-release repo yank REPO RELEASE --undo --keys KEYS"),
		cli.On(1, "", cli.Any(repository.ErrLast), "take it off the list, without --from, or take it back: tandem-release repo yank"),
		cli.On(1, "", cli.Any(repository.ErrDelegated), "change that role's list with the tool that signs it; only its rollout can be halted here"),
		cli.On(1, "", cli.Any(repository.ErrNoRelease, repository.ErrAmbiguous, repository.ErrRecall), "see which there are with: tandem-release repo list REPO"),
		cli.On(1, "", cli.Any(repository.ErrTooLarge), "take old releases off the list with: tandem-release repo remove REPO RELEASE --keys KEYS"),
		cli.On(1, "", cli.Any(repository.ErrChange), "make the change again, with --out"),
		cli.On(1, "", cli.Any(errProblems),
			`restore what is damaged from a copy, sign bundles that are not trusted anew with "repo resign --all", or yank their releases`),
		cli.On(1, "", cli.Any(signing.ErrKey, repository.ErrKeys), "use the keys that the repository's root.json names: after a rotation those are the new ones"),
		cli.On(1, "", cli.Any(repository.ErrNone), "make one with: tandem-release repo init REPO --keys KEYS"),
		cli.On(1, "any other failure", cli.Any(repository.ErrDamaged), "restore the repository's metadata/ from a copy"),
		cli.On(20, "not signed by the root of trust", cli.Any(trust.ErrUntrusted), "sign it with: tandem-release bundle sign FILE --keys KEYS --root ROOT.json"),
		cli.On(21, "a delta bundle without the release that it builds on", cli.Any(bundle.ErrBase), "name the bundle of that release with --base"),
		cli.On(24, "", cli.Any(bundle.ErrCodec), "a newer version of tandem-release may read it"),
		cli.On(24, "malformed bundle", cli.Any(bundle.ErrMalformed), "fetch or make the bundle again"),
	}
}
