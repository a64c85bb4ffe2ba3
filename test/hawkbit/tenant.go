package hawkbit

import (
	"fmt"
	"net/http"
	"strings"
)

var defaultConfig = map[string]any{"pollingTime": "00:05:00"}

func (m *management) set(key string, value any) error {
	old, known := m.config[key]
	if !known {
		return &failure{
			status: http.StatusBadRequest, code: "configKeyInvalid", class: repoException + "InvalidTenantConfigurationKeyException",
			message: fmt.Sprintf("The given configuration key %s does not exist.", key),
		}
	}
	if fmt.Sprintf("%T", old) != fmt.Sprintf("%T", value) {
		return errUnreadable
	}
	if key == "pollingTime" {
		clock, _, _ := strings.Cut(strings.Split(value.(string), ",")[0], "~")
		if d, err := clockTime(clock); err != nil || d < m.o.MinSleep {
			return &failure{
				status: http.StatusBadRequest, code: "configValueInvalid", class: repoException + "TenantConfigurationValidatorException",
				message: fmt.Sprintf("The polling interval is smaller then minimum polling interval. The allowed range is [%s, 23:59:59].", clockText(m.o.MinSleep)),
			}
		}
	}
	m.config[key] = value
	return nil
}

func (m *management) putConfig() error {
	var in struct{ Value any }
	if err := m.read(&in); err != nil {
		return err
	}
	if err := m.set(m.r.PathValue("key"), in.Value); err != nil {
		return err
	}
	return m.say(http.StatusNoContent, nil)
}

func (m *management) putConfigs() error {
	var in map[string]any
	if err := m.read(&in); err != nil {
		return err
	}
	for key, value := range in {
		if err := m.set(key, value); err != nil {
			return err
		}
	}
	return m.say(http.StatusNoContent, nil)
}

func (m *management) getConfig() error {
	value, ok := m.config[m.r.PathValue("key")]
	if !ok {
		return m.set(m.r.PathValue("key"), nil)
	}
	return m.say(http.StatusOK, object{"value": value, "global": true})
}

func (m *management) resetConfig() error {
	key := m.r.PathValue("key")
	if value, ok := defaultConfig[key]; ok {
		m.config[key] = value
	}
	return m.say(http.StatusNoContent, nil)
}
