package xapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// jsonCall writes a request of JSON-RPC 2.0.
func jsonCall(id uint64, method string, args []any) ([]byte, error) {
	return json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": args, "id": id})
}

// errNoResult: an empty list would be mistaken for a pool without machines.
var errNoResult = errors.New("the result is null or is not there")

// readJSON reads one value, and no further than to its first mistake.
func readJSON(r io.Reader) ([]byte, error) {
	var data json.RawMessage
	d := json.NewDecoder(r)
	if err := d.Decode(&data); err != nil {
		return nil, err
	}
	if rest, err := io.ReadAll(io.LimitReader(io.MultiReader(d.Buffered(), r), 64)); err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.Join(errors.New("more follows the answer"), err)
	}
	return data, nil
}

// jsonAnswer reads an answer of JSON-RPC 2.0, or of 1.0, which XenServer 7.0
// to 7.2 return for every request. In 1.0 the error is the list itself.
func jsonAnswer(data []byte, result any) error {
	r := struct {
		Result any             `json:"result"` // where the result goes
		Error  json.RawMessage `json:"error"`
	}{Result: result}
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	if len(r.Error) == 0 || string(r.Error) == "null" {
		if result != nil && (r.Result == nil || !bytes.Contains(data, []byte(`"result"`))) {
			return errNoResult
		}
		return nil
	}
	var list []any // of texts, as far as is known
	if r.Error[0] == '[' {
		if err := json.Unmarshal(r.Error, &list); err != nil {
			return err
		}
	} else {
		var v2 struct {
			Message string `json:"message"`
			Data    []any  `json:"data"`
		}
		if err := json.Unmarshal(r.Error, &v2); err != nil {
			return err
		}
		list = append([]any{v2.Message}, v2.Data...)
	}
	e := &Error{}
	for i, v := range list {
		if s := fmt.Sprint(v); i == 0 {
			e.Code = s
		} else {
			e.Params = append(e.Params, s)
		}
	}
	if e.Code == "" {
		return errors.New("the answer has an error without a code")
	}
	return e
}
