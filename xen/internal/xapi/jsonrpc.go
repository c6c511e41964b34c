package xapi

import (
	"encoding/json"
	"fmt"
)

// jsonCall writes a request of JSON-RPC 2.0.
func jsonCall(id uint64, method string, args []any) ([]byte, error) {
	return json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": args, "id": id})
}

// jsonAnswer reads an answer of JSON-RPC 2.0, or of 1.0, which XenServer 7.0
// to 7.2 give to every request: there the error is the list itself.
func jsonAnswer(data []byte, result any) error {
	r := struct {
		Result any             `json:"result"` // where the result goes
		Error  json.RawMessage `json:"error"`
	}{Result: result}
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	if len(r.Error) == 0 || string(r.Error) == "null" {
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
	return e
}
