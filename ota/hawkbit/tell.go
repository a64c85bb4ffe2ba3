package hawkbit

import (
	"context"
	"errors"
	"maps"
	"net/http"

	"tandem/versioning"
)

// tell sends what has changed of the device. What could not be told is no error:
// whether the server has it is not known then, and it is told the next time.
func (s *Source) tell(ctx context.Context, st *State, f *Facts, b *base, idle bool) error {
	asked := b.Links["configData"].Href != ""
	all := asked || !s.c.cache.told
	unsure := false
	if err := s.tellAttributes(ctx, st, f, all); err != nil {
		s.o.Log.WithError(err).Warn("the server was not told of the device's attributes; it is tried again")
		unsure, st.Attributes = st.Attributes != nil, nil
	}
	if idle {
		if err := s.tellInstalled(ctx, st, f, !s.c.cache.told || asked && b.Links["installedBase"].Href == ""); err != nil {
			s.o.Log.WithError(err).Warn("the server was not told what is installed; it is tried again")
			unsure, st.Told = unsure || !st.Told.IsZero(), versioning.Version{}
		} else {
			s.c.cache.told = s.c.cache.told || st.Attributes != nil
		}
	}
	if !unsure {
		return nil
	}
	return s.save(st)
}

// tellAttributes sends what has changed of the attributes, or all if asked.
func (s *Source) tellAttributes(ctx context.Context, st *State, f *Facts, asked bool) error {
	want := cleanAttributes(f.Attributes, s.o.Attributes)
	err := s.sendAttributes(ctx, st.Attributes, want, asked)
	if errors.Is(err, errTooMuch) {
		s.o.Log.WithError(err).Warn("the server does not take all attributes: those of the configuration are left out")
		own := cleanAttributes(f.Attributes, nil)
		if err = s.sendAttributes(ctx, nil, own, true); errors.Is(err, errTooMuch) {
			s.o.Log.WithError(err).Warn("the server does not take the device's attributes; they are not sent again before they change")
			err = nil
		}
	}
	if err != nil || maps.Equal(want, st.Attributes) {
		return err
	}
	st.Attributes = want
	return s.save(st)
}

func (s *Source) sendAttributes(ctx context.Context, known, want map[string]string, all bool) error {
	data := map[string]*string{}
	for k, v := range want {
		if old, ok := known[k]; all || !ok || old != v {
			data[k] = &v
		}
	}
	for k := range known {
		if _, ok := want[k]; !ok {
			data[k] = nil // the server forgets it
		}
	}
	if len(data) == 0 {
		return nil
	}
	body := struct {
		Mode string             `json:"mode"`
		Data map[string]*string `json:"data"`
	}{"merge", data}
	return s.c.send(ctx, http.MethodPut, s.c.at.configData(), "attributes", body)
}

// tellInstalled tells the server what is installed, where that is another version
// than it takes for installed: after a rollback, an installation by hand, or a
// partition that was restored.
func (s *Source) tellInstalled(ctx context.Context, st *State, f *Facts, again bool) error {
	app := f.app()
	if app == nil || app.Installed.IsZero() || !app.Pending.IsZero() || !again && st.Told.String() == app.Installed.String() {
		return nil
	}
	set := st.setOf(app.Installed, s.o.SetName)
	if set == nil {
		return nil
	}
	err := s.c.send(ctx, http.MethodPut, s.c.at.installedBase(), "installed", set)
	switch {
	case errors.Is(err, errVanished), errors.Is(err, errTooMuch):
		s.o.Log.Warnf("the server has no distribution set %s:%s: it is not told that this is installed", set.Name, set.Version)
	case err != nil:
		return err
	default:
		s.o.Log.Infof("the server knows that %s:%s is installed", set.Name, set.Version)
	}
	if st.Told.String() == app.Installed.String() {
		return nil
	}
	st.Told = app.Installed
	return s.save(st)
}
