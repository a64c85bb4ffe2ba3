package container

import (
	"fmt"
	"strings"
)

// node is a value of a compose file: one of the three.
type node struct {
	text string
	list []*node
	keys map[string]*node
}

// at finds a value by its keys; an empty one where there is none.
func (n *node) at(keys ...string) *node {
	for _, k := range keys {
		if n = n.keys[k]; n == nil {
			return &node{}
		}
	}
	return n
}

// texts are the values of a list.
func (n *node) texts() (all []string) {
	for _, one := range n.list {
		all = append(all, one.text)
	}
	return all
}

// readCompose reads the part of YAML that our compose files are written in: mappings
// and lists in blocks, and in one line with brackets.
func readCompose(text string) (*node, error) {
	var lines []string
	for line := range strings.Lines(text) {
		if bare := strings.TrimSpace(line); bare != "" && !strings.HasPrefix(bare, "#") {
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	n, rest, err := block(lines, 0)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%q is not understood", rest[0])
	}
	return n, err
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// block reads lines that are indented by depth.
func block(lines []string, depth int) (n *node, rest []string, err error) {
	n = &node{keys: map[string]*node{}}
	for len(lines) > 0 && indent(lines[0]) == depth {
		line := lines[0][depth:]
		lines = lines[1:]
		if item, ok := strings.CutPrefix(line, "- "); ok {
			n.list = append(n.list, scalar(item))
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, nil, fmt.Errorf("%q is not understood", line)
		}
		if value = strings.TrimSpace(value); value != "" {
			n.keys[key] = scalar(value)
			continue
		}
		n.keys[key] = &node{}
		if len(lines) > 0 && indent(lines[0]) > depth {
			if n.keys[key], lines, err = block(lines, indent(lines[0])); err != nil {
				return nil, nil, err
			}
		}
	}
	return n, lines, nil
}

func scalar(text string) *node {
	inner, isList := strings.CutPrefix(text, "[")
	pairs, isMap := strings.CutPrefix(text, "{")
	switch {
	case isList:
		n := &node{}
		for one := range strings.SplitSeq(strings.TrimSuffix(inner, "]"), ",") {
			n.list = append(n.list, scalar(strings.TrimSpace(one)))
		}
		return n
	case isMap:
		n := &node{keys: map[string]*node{}}
		for one := range strings.SplitSeq(strings.TrimSuffix(pairs, "}"), ",") {
			key, value, _ := strings.Cut(one, ":")
			n.keys[strings.TrimSpace(key)] = scalar(strings.TrimSpace(value))
		}
		return n
	}
	return &node{text: strings.Trim(text, `"`)}
}
