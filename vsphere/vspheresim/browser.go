package vspheresim

func (s *Sim) furnishBrowsers() {}
