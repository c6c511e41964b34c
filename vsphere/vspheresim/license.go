package vspheresim

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// The keys of licence features, as a licence lists them under "feature" in its properties. API reference:
// LicenseManagerLicenseInfo.properties holds "feature" entries of type KeyValue. That the keys are spelled
// like this is believed for "sriov" and "vgpu"; "vsmp", "vmotion", "das", "drs", "svmotion", "dvs" are those of
// LicenseFeatureInfo.
const (
	FeatureVMotion        = "vmotion"
	FeatureHA             = "das"
	FeatureDRS            = "drs"
	FeatureStorageVMotion = "svmotion"
	FeatureDVS            = "dvs"
	FeatureFT             = "ft"
	FeatureHotAdd         = "hotplug"
	FeatureSRIOV          = "sriov"
	FeatureVGPU           = "vgpu"
	FeatureSMP            = "vsmp"
)

var featureNames = map[string]string{
	FeatureVMotion: "vSphere vMotion", FeatureHA: "vSphere HA", FeatureDRS: "vSphere DRS",
	FeatureStorageVMotion: "vSphere Storage vMotion", FeatureDVS: "vSphere Distributed Switch",
	FeatureFT: "vSphere FT", FeatureHotAdd: "Hot-Pluggable virtual HW",
	FeatureSMP: "Virtual SMP", FeatureSRIOV: "Single Root I/O Virtualization (SR-IOV) Support", FeatureVGPU: "NVIDIA vGPU Support",
}

var editionFeatures = map[string][]string{
	EnterprisePlus: {FeatureVMotion, FeatureHA, FeatureDRS, FeatureStorageVMotion, FeatureDVS, FeatureFT, FeatureHotAdd, FeatureSRIOV, FeatureVGPU},
	Evaluation:     {FeatureVMotion, FeatureHA, FeatureDRS, FeatureStorageVMotion, FeatureDVS, FeatureFT, FeatureHotAdd, FeatureSRIOV, FeatureVGPU},
	Standard:       {FeatureVMotion, FeatureHA, FeatureStorageVMotion, FeatureFT, FeatureHotAdd},
	EssentialsPlus: {FeatureVMotion, FeatureHA, FeatureHotAdd},
	Essentials:     {FeatureSMP},
}

var editionLicences = map[string]types.LicenseManagerLicenseInfo{
	EnterprisePlus: {LicenseKey: "0J000-00000-00000-00000-00001", EditionKey: "esx.enterprisePlus.cpuPackage", Name: "VMware vSphere 8 Enterprise Plus", CostUnit: "cpuPackage"},
	Standard:       {LicenseKey: "0J000-00000-00000-00000-00002", EditionKey: "esx.standard.cpuPackage", Name: "VMware vSphere 8 Standard", CostUnit: "cpuPackage"},
	EssentialsPlus: {LicenseKey: "0J000-00000-00000-00000-00003", EditionKey: "esx.essentialsPlus.cpuPackage", Name: "VMware vSphere 8 Essentials Plus", CostUnit: "cpuPackage"},
	Essentials:     {LicenseKey: "0J000-00000-00000-00000-00004", EditionKey: "esx.essentials.cpuPackage", Name: "VMware vSphere 8 Essentials", CostUnit: "cpuPackage"},
	Evaluation:     {LicenseKey: "00000-00000-00000-00000-00000", EditionKey: "eval", Name: "Evaluation Mode"},
}

// licensed reports whether the edition has a feature.
func (s *Sim) licensed(feature string) bool {
	return slices.Contains(editionFeatures[s.cfg.Edition], feature)
}

// restricted is the fault for a feature that the edition lacks. API reference: RestrictedVersion, "thrown if a product version is not compatible with
// the license that is currently assigned". Believed: that this one is returned for all of them.
func restricted() types.BaseMethodFault { return new(types.RestrictedVersion) }

func (s *Sim) furnishLicences() {
	reg := s.registry()
	content := s.content()
	if content.LicenseManager == nil {
		return
	}
	lic := editionLicences[s.cfg.Edition]
	lic.Total, lic.Used = 64, int32(2*len(s.allHosts()))
	for _, f := range editionFeatures[s.cfg.Edition] {
		lic.Properties = append(lic.Properties, types.KeyAnyValue{
			Key: "feature", Value: types.KeyValue{Key: f, Value: featureNames[f]},
		})
	}
	lic.Properties = append(lic.Properties,
		types.KeyAnyValue{Key: "ProductName", Value: "VMware ESX Server"},
		types.KeyAnyValue{Key: "ProductVersion", Value: "8.0"})
	lm, ok := reg.Get(*content.LicenseManager).(*simulator.LicenseManager)
	if !ok {
		return
	}
	lm.Licenses = []types.LicenseManagerLicenseInfo{lic}
	lm.LicensedEdition = lic.EditionKey
	if lm.LicenseAssignmentManager == nil {
		return
	}
	if am, ok := reg.Get(*lm.LicenseAssignmentManager).(*simulator.LicenseAssignmentManager); ok {
		list := am.QueryAssignedLicensesResponse.Returnval
		for i := range list {
			list[i].AssignedLicense = lic
		}
	}
}
